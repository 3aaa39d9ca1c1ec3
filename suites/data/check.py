"""Are the sets in a folder the standard ones? Picture by picture, by the hash of the decoded pixels."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from suites.data import manifest
from suites.data.catalogue import stem_key
from suites.data.datasets import Dataset, find, folder_of, listing
from suites.data.manifest import Entry
from suites.data.pictures import DataError, load_picture, pixel_hash

if TYPE_CHECKING:
    import pandas as pd  # half a second that `list` would wait

STATES = ("ok", "missing", "extra", "other size", "other pixels", "already an LR", "unreadable")
EMBEDDED = ("embedded", "embedded-train")
COLUMNS = ("dataset", "image", "state", "detail", "file")
LR_SCALES = (2, 3, 4, 8)
CROPS = (2, 3, 4, 6, 8, 12, 24)  # multiples that people crop ground truth to


def check(root: Path | None) -> "pd.DataFrame":
    """One row per picture of every set that is in `root` and has a manifest; without `root`, of the embedded ones.

    Columns: dataset, image (the manifest's stem, or that of a file that is not of the set), state (one of STATES),
    detail (what is wrong, for people), file. A set without any folder has no rows: `listing` tells what is there.
    Raises DataError when the folder does not exist or holds no pictures that a set could be made of.
    """
    import pandas as pd

    if root is not None and not root.is_dir():
        raise DataError(f"the folder of datasets {root} does not exist")
    names = [name for name in manifest.names() if name.startswith("embedded") == (root is None)]
    rows: list[tuple] = []
    for name in names:
        if root is None or folder_of(name, root) is not None:
            rows += _check_set(name, root)
    if not rows and not unchecked(root):
        raise DataError(f"{root} holds no folder of pictures, and none of the sets that are known: {', '.join(names)}")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def unchecked(root: Path | None) -> dict[str, int]:
    """Sets in `root` that no manifest knows, the user's own, by how many pictures they have."""
    found = listing(root) if root is not None else []
    own = {row["dataset"]: row["found"] for row in found if row["found"]}
    return {name: count for name, count in own.items() if name not in manifest.names() and name not in EMBEDDED}


def _check_set(name: str, root: Path | None) -> list[tuple]:
    try:
        dataset = find(name, root)
    except DataError as error:  # two files of one stem, or not a single name of the set
        return [(name, "", "unreadable", str(error), "")]
    with ThreadPoolExecutor() as workers:
        own = list(workers.map(lambda entry: _check_own(dataset, entry), dataset.entries.values()))
        others = list(workers.map(lambda path: _check_other(dataset.entries, path), dataset.others))
    rows = [
        (name, entry.stem, *row, dataset.files.get(entry.stem, ""))
        for entry, row in zip(dataset.entries.values(), own, strict=True)
    ]
    return rows + [(name, path.stem, *row, path) for path, row in zip(dataset.others, others, strict=True)]


def _check_own(dataset: Dataset, entry: Entry) -> tuple[str, str]:
    """State and detail of a picture of the manifest."""
    if entry.stem not in dataset.files:
        return "missing", f"no file of this name in {dataset.source}"
    try:
        picture = dataset.load(entry.stem)
    except DataError as error:
        return "unreadable", str(error)
    height, width = picture.pixels.shape[:2]
    if picture.standard:
        return "ok", ""
    if (height, width) == (entry.height, entry.width):
        channels = 1 if picture.pixels.ndim == 2 else 3
        if channels != entry.channels:
            return "other pixels", f"{_colour(channels)}, the standard picture is {_colour(entry.channels)}"
        return "other pixels", "the size is right, the pixels are not: converted, compressed or edited"
    sizes = f"{height}x{width}, the standard picture is {entry.height}x{entry.width}"
    if scale := _lr_scale(entry, height, width):
        return "already an LR", f"{sizes}: this is its size at x{scale}"
    crops = [m for m in CROPS if (height, width) == (entry.height // m * m, entry.width // m * m)]
    return "other size", sizes + (f": cropped to a multiple of {crops[-1]}" if crops else "")


def _check_other(entries: Mapping[str, Entry], path: Path) -> tuple[str, str]:
    """State and detail of a file whose name is not of the set."""
    try:
        pixels = load_picture(path)
    except DataError as error:
        return "extra", f"not of this set, and unreadable: {error}"
    same = [entry.stem for entry in entries.values() if entry.sha256 == pixel_hash(pixels)]
    if same:
        return "extra", f"has the pixels of {same[0]}: rename it"
    for entry in entries.values():
        scale = _lr_scale(entry, *pixels.shape[:2])
        if scale and stem_key(path.stem).startswith(stem_key(entry.stem)):
            return "already an LR", f"{pixels.shape[0]}x{pixels.shape[1]} is the size of {entry.stem} at x{scale}"
    return "extra", "not of this set: it is not used"


def _lr_scale(entry: Entry, height: int, width: int) -> int | None:
    """The scale at which a picture of this size is the LR of `entry`, cropped before or not."""
    for scale in LR_SCALES:
        if height in _sides(entry.height, scale) and width in _sides(entry.width, scale):
            return scale
    return None


def _sides(length: int, scale: int) -> tuple[int, int]:
    return length // scale, -(-length // scale)


def _colour(channels: int) -> str:
    return "gray" if channels == 1 else "in colour"
