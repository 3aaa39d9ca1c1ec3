"""What the standard sets consist of: one line per picture, with the hash of its decoded pixels."""

import csv
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np

from suites.data.pictures import load_picture, pixel_hash

FOLDER = Path(__file__).parent / "manifests"


@dataclass(frozen=True)
class Entry:
    """One picture of a set. `sha256` is `pixel_hash` of its uint8 pixels [height, width(, channels)]."""

    stem: str
    height: int
    width: int
    channels: int
    sha256: str

    @classmethod
    def of(cls, stem: str, pixels: np.ndarray) -> "Entry":
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        return cls(stem, *pixels.shape[:2], channels, pixel_hash(pixels))


COLUMNS = tuple(field.name for field in fields(Entry))


def make(files: Mapping[str, Path]) -> list[Entry]:
    """Describes pictures, given as stem -> file, in the order of the stems. Raises DataError as `load_picture`."""
    with ThreadPoolExecutor() as workers:
        return list(workers.map(lambda stem: Entry.of(stem, load_picture(files[stem])), sorted(files)))


def write(entries: Iterable[Entry], path: Path) -> None:
    """Writes a manifest as CSV with the columns of COLUMNS."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(entry) for entry in entries)


@cache
def read(name: str) -> dict[str, Entry] | None:
    """The manifest of a set by stem, or None when none ships for a set of that name."""
    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        entries = (Entry(r["stem"], *(int(r[c]) for c in COLUMNS[1:4]), r["sha256"]) for r in csv.DictReader(file))
        return {entry.stem: entry for entry in entries}


def names() -> list[str]:
    """The sets that a manifest ships for."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


@cache
def test_pictures() -> dict[str, str]:
    """Hash -> "Set/stem" of every picture that is tested on: none of them may be trained on."""
    return {
        entry.sha256: f"{name}/{entry.stem}"
        for name in names()
        if not name.endswith("-train")
        for entry in (read(name) or {}).values()
    }
