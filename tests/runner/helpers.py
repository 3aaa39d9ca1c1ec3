"""What tests of the command line share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Command = Callable[..., tuple[int, str, str]]


def data_set(folder: Path, side: int = 24) -> Path:
    """A folder with a Set5 of one picture of noise."""
    (folder / "Set5").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "Set5" / "baby.png")
    return folder


def refused(result: tuple[int, str, str], *words: str) -> None:
    """One line that starts with "error:", holds every word, and a status of 2."""
    status, out, err = result
    assert status == 2, (out, err)
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    for word in words:
        assert word in lines[0]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def photo(path: Path, side: int = 9, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path
