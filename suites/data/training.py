"""Training pictures, all of them decoded in memory, and none of them a picture that is tested on."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from suites.data import manifest
from suites.data.datasets import Dataset, find_training
from suites.data.pictures import DataError, as_gray, as_rgb, load_picture, pixel_hash


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
    return [find_training(name, root) for name in names]


def _decode(path: Path, tested: dict[str, str]) -> tuple[np.ndarray, str | None]:
    """The picture as RGB, and the test picture that it is, if any."""
    pixels = load_picture(path)
    return np.ascontiguousarray(as_rgb(pixels)), tested.get(pixel_hash(as_gray(pixels)))
