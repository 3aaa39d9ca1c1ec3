"""Datasets in a folder of folders: `<root>/<Dataset>/` holds ground truth, whatever the image format.

What people have is accepted: other names and other case (B100, urban100), an inner folder (Set5/HR, Set5/GTmod12,
DIV2K/DIV2K_train_HR), `train/<Dataset>`, and stems that differ by punctuation or _HR (catalogue.py lists all of it).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from suites.data import embedded, manifest
from suites.data.catalogue import DATASETS, PARTS, is_inner_folder, known, same_folder, spellings, stem_key
from suites.data.pictures import DataError, as_gray, as_rgb, list_pictures, load_picture, pixel_hash


@dataclass(frozen=True)
class Picture:
    """Decoded ground truth: uint8 [H, W] (gray) or [H, W, 3]. `standard`: the manifest's pixels? None without one."""

    stem: str
    pixels: np.ndarray
    sha256: str
    standard: bool | None


@dataclass(frozen=True)
class Dataset:
    """The pictures of a set that are there, by the stems of its manifest where it has one, else by their own.

    `len` is how many pictures the whole set has, not how many were found: a mean over fewer is no score of the set.
    source: where they come from, for people. others: files in the folder that are not of the set; they are not used.
    """

    name: str
    files: Mapping[str, Path]
    count: int
    source: str
    others: tuple[Path, ...] = ()
    entries: Mapping[str, manifest.Entry] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    @property
    def complete(self) -> bool:
        """Whether every picture of the set is there (by name: `check` compares pixels)."""
        return self.entries.keys() <= self.files.keys() if self.entries else len(self.files) >= self.count

    def stems(self, pattern: str | None = None) -> list[str]:
        """The stems found, in order, or those that match a glob. Raises DataError when none does."""
        chosen = [stem for stem in self.files if pattern is None or fnmatchcase(stem, pattern)]
        if not chosen:
            some = ", ".join(list(self.files)[:3])
            raise DataError(f"no picture of {self.name} matches {pattern!r}: its {len(self.files)} are {some}, ...")
        return chosen

    def images(self, pattern: str | None = None) -> Iterator[Picture]:
        """Decodes picture after picture. Raises DataError for a file that is refused, and as `stems`."""
        for stem in self.stems(pattern):
            yield self.load(stem)

    def load(self, stem: str) -> Picture:
        """One picture. A picture that the manifest knows as gray and that is stored as RGB counts as gray."""
        pixels, entry = load_picture(self.files[stem]), self.entries.get(stem)
        if entry and entry.channels == 1:
            pixels = as_gray(pixels)
        sha256 = pixel_hash(pixels)
        return Picture(stem, pixels, sha256, sha256 == entry.sha256 if entry else None)


def find(name: str, root: Path | None) -> Dataset:
    """The dataset `name` in the folder `root`; "embedded" needs none.

    A name that is not known here is the folder of that name, with all its pictures. A set that is a part of another
    (PARTS) and has no folder of its own is taken from there (`source` says so). Raises DataError when the folder, or
    every picture of the set, is missing, or when two files claim to be the same picture.
    """
    info = known(name)
    name = info.name if info else name
    if name in ("embedded", "embedded-train"):
        return _embedded(name)
    root = _root(root, name)
    folder = folder_of(name, root)
    entries = manifest.read(name) or {}
    if folder is None and name in PARTS and (folder := folder_of(PARTS[name], root)) is not None:
        files, _ = _match(folder, entries, name)
        return Dataset(name, files, len(entries), f"{len(files)} pictures of {_relative(folder, root)}", (), entries)
    if folder is None:
        raise DataError(_missing(name, root, known_name=info is not None))
    files, others = _match(folder, entries, name)
    count = len(entries) or (info.count if info else len(files))
    return Dataset(name, files, count, _relative(folder, root), others, entries)


def find_all(
    names: Iterable[str], root: Path | None, find: Callable[[str, Path | None], Dataset] = find
) -> list[Dataset]:
    """`find` (or `find_training`) of every name. Raises one DataError that says all that is wrong."""
    found, problems = [], []
    for name in names:
        try:
            found.append(find(name, root))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("; ".join(dict.fromkeys(problems)))
    return found


def find_training(name: str, root: Path | None) -> Dataset:
    """As `find`, for training: "embedded" is its training half."""
    return find("embedded-train" if name == "embedded" else name, root)


def listing(root: Path | None) -> list[dict[str, Any]]:
    """Every known dataset and every other folder of pictures: a row with dataset, tasks, found, of, where.

    `where` says what is wrong with one that cannot be used; "-" is a missing one. Raises DataError without the folder.
    """
    rows = []
    own = _unknown_folders(_root(root, "datasets")) if root is not None else []
    for name in (*DATASETS, *own):
        info = DATASETS.get(name)
        found, count, where = 0, info.count if info else 0, "-"
        try:
            dataset = find(name, root)
            found, count, where = len(dataset.files), len(dataset), dataset.source
        except DataError as error:
            if root is not None and folder_of(name, root) is not None:
                where = str(error)
        kinds = ", ".join(info.kinds) if info else ""
        rows.append({"dataset": name, "tasks": kinds, "found": found, "of": count, "where": where})
    return rows


def _missing(name: str, root: Path, known_name: bool) -> str:
    """What to say of a set that is not in `root`."""
    there = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if known_name or not there:
        has = f"there {'are' if there else 'is'} {', '.join(there) or 'no folder at all'}"
        return f"no pictures of {name} in {root}: put them into {root / name} ({has})"
    near = get_close_matches(name, there, 3)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown set {name!r}: {meant}choose from {', '.join(there)}, or put its pictures into {root / name}"


def _embedded(name: str) -> Dataset:
    files = embedded.files(embedded.TEST if name == "embedded" else embedded.TRAIN)
    return Dataset(name, files, len(files), "scikit-image", (), manifest.read(name) or {})


def _root(root: Path | None, name: str) -> Path:
    if root is None:
        raise DataError(f"{name}: no folder of datasets was given: use --data DIR (or MAMBAIR_BENCH_DATA)")
    if not Path(root).is_dir():
        raise DataError(
            f"the folder of datasets {root} does not exist" + (" as a folder" if Path(root).exists() else "")
        )
    return Path(root)


def folder_of(name: str, root: Path) -> Path | None:
    """Where the pictures of `name` lie under `root`; None when nowhere. The exact spelling wins, then the first."""
    spelled = spellings(name)
    for parent in (root, root / "train"):
        if not parent.is_dir():
            continue
        outer = [path for path in sorted(parent.iterdir()) if path.is_dir() and same_folder(path.name, spelled)]
        for folder in sorted(outer, key=lambda path: path.name != name):
            inner = [path for path in sorted(folder.iterdir()) if path.is_dir()]
            ranked = [(rank, path) for path in inner if (rank := is_inner_folder(path.name, name)) is not None]
            for place in (folder, *(path for _, path in sorted(ranked))):
                if _has_pictures(place):
                    return place
    return None


def _has_pictures(folder: Path) -> bool:
    try:
        return bool(list_pictures(folder))
    except DataError:  # two of one stem: there are pictures, and who uses the folder will be told
        return True


def _match(folder: Path, entries: Mapping[str, manifest.Entry], name: str) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """The files of `folder` by the manifest's stems, and those that are not of the set."""
    pictures = list_pictures(folder)
    if not entries:
        return pictures, ()
    wanted = {stem_key(stem): stem for stem in entries}
    files: dict[str, Path] = {}
    others = []
    for stem, path in pictures.items():
        standard = wanted.get(stem_key(stem))
        if standard is None:
            others.append(path)
        elif standard in files:
            raise DataError(f"{folder} holds both {files[standard].name} and {path.name}: keep one of them")
        else:
            files[standard] = path
    if not files:
        some = ", ".join(list(entries)[:3])
        raise DataError(f"none of the {len(pictures)} pictures in {folder} has a name of {name} ({some}, ...)")
    return dict(sorted(files.items())), tuple(others)


def _unknown_folders(root: Path) -> list[str]:
    folders = (path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return [path.name for path in folders if known(path.name) is None and folder_of(path.name, root) is not None]


def _relative(folder: Path, root: Path) -> str:
    return str(folder.relative_to(root))


# Training pictures: all of them decoded in memory, and none of them a picture that is tested on


def load_training(names: Sequence[str], root: Path | None) -> list[np.ndarray]:
    """The pictures of the named sets, uint8 RGB [H, W, 3] (gray repeated), set after set in the order of the stems.

    Decoded by one thread per core: 800 pictures of DIV2K take 7 GB. Raises DataError for a set that is missing, a
    picture that is refused, and pictures whose pixels are those of a test picture (manifests/): it names them.
    """
    pictures = [
        (f"{dataset.name}/{stem}", path) for dataset in _sets(names, root) for stem, path in dataset.files.items()
    ]
    tested = manifest.test_pictures()
    with ThreadPoolExecutor() as workers:
        decoded = list(workers.map(lambda picture: _decode(picture[1], tested), pictures))
    clashes = [f"{name} is {test}" for (name, _), (_, test) in zip(pictures, decoded, strict=True) if test]
    if clashes:
        listed = ", ".join(clashes[:3]) + (", ..." if len(clashes) > 3 else "")
        raise DataError(f"{len(clashes)} of {len(pictures)} training pictures are tested on ({listed}): remove them")
    return [pixels for pixels, _ in decoded]


def _sets(names: Sequence[str], root: Path | None) -> list[Dataset]:
    if not names:
        raise DataError("no training set was named")
    return find_all(names, root, find_training)


def _decode(path: Path, tested: dict[str, str]) -> tuple[np.ndarray, str | None]:
    """The picture as RGB, and the test picture that it is, if any."""
    pixels = load_picture(path)
    return np.ascontiguousarray(as_rgb(pixels)), tested.get(pixel_hash(as_gray(pixels)))
