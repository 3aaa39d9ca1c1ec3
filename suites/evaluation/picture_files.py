"""Which picture is restored into which file, and whether it can be written; nothing is decoded."""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from PIL import ExifTags, Image

from suites.data import DataError
from suites.data.pictures import SUFFIXES

WRITING = {  # why a file cannot be written, and what to do
    errno.ENOSPC: "no space is left there: free some, or choose another OUTPUT",
    errno.EDQUOT: "the disk quota is used up: free some, or choose another OUTPUT",
    errno.EROFS: "the file system is read-only: choose another OUTPUT",
    errno.EACCES: "you may not write there: choose another OUTPUT",
    errno.EPERM: "you may not write there: choose another OUTPUT",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter OUTPUT",
}


@dataclass
class Plan:
    """pairs: (picture, restored picture) of everything to be done. kept: outputs that exist and are left alone.
    refused: why a picture is not restored, a line each."""

    pairs: list[tuple[Path, Path]]
    kept: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def plan(source: Path, target: Path, overwrite: bool = False) -> Plan:
    """Which picture is restored into which file; nothing is decoded or written.

    A single picture goes to `target`, a .png file or a folder. A folder's pictures, those of its sub-folders too, go to
    the same place in the folder `target`, as <stem>.png; `target` itself is left out where it lies inside `source`, and
    so are hidden files and folders. Without `overwrite` an output that exists is kept, and an error for a single
    picture. Raises DataError when there is no picture, OUTPUT is the picture itself, or OUTPUT cannot be written.
    """
    if source.is_dir():
        planned = _folder(source, target, overwrite)
    elif source.is_file():
        planned = _single(source, target, overwrite)
    else:
        raise DataError(f"{source} does not exist: give a picture or a folder of pictures")
    for folder in {restored.parent for _, restored in planned.pairs}:
        check_writable(folder)
    return planned


def _single(source: Path, target: Path, overwrite: bool) -> Plan:
    restored = target
    if target.is_dir() or not target.suffix:
        restored = target / f"{source.stem}.png"
    elif target.suffix.lower() != ".png":
        raise DataError(f"{target}: restored pictures are written as .png, which loses nothing")
    if _same_file(source, restored):
        raise DataError(f"{restored} is the picture itself: choose another OUTPUT, so that it is not replaced")
    if restored.is_dir():
        raise DataError(f"{restored} is a folder: choose another OUTPUT")
    if restored.exists() and not overwrite:
        raise DataError(f"{restored} exists already: choose another OUTPUT, or replace it with --overwrite")
    return Plan([(source, restored)])


def _folder(source: Path, target: Path, overwrite: bool) -> Plan:
    if target.is_file():
        raise DataError(f"{target} is a file: the pictures of a folder are restored into a folder")
    if _same_file(source, target):
        raise DataError(
            f"{target} is the folder of the pictures themselves: choose another, so that none of them is replaced"
        )
    found: dict[Path, list[Path]] = {}
    for folder, folders, names in os.walk(source):
        here = Path(folder)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not _same_file(here / name, target)
        )
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                picture = here / name
                found.setdefault(target / picture.relative_to(source).with_suffix(".png"), []).append(picture)
    if not found:
        raise DataError(f"{source} holds no picture: give a picture, or a folder with some")
    planned = Plan([])
    for restored, pictures in found.items():
        if len(pictures) > 1:
            names = " and ".join(path.name for path in pictures)
            planned.refused.append(f"{pictures[0].parent}: {names} would both become {restored}: rename one of them")
        elif _same_file(pictures[0], restored):
            planned.refused.append(f"{restored} is the picture itself, under another name: choose another OUTPUT")
        elif restored.exists() and not overwrite:
            planned.kept.append(restored)
        else:
            planned.pairs.append((pictures[0], restored))
    return planned


def colour_profile(picture: Path) -> bytes | None:
    """The ICC profile that the file holds, as it is."""
    with Image.open(picture) as image:
        return image.info.get("icc_profile")


def size_of(picture: Path) -> tuple[int, int] | None:
    """Height and width as the file's head says, turned as its orientation asks; None for a file that has none, of which
    decoding says why."""
    try:
        with Image.open(picture) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:  # decoders of damaged files raise anything
        return None


def _same_file(one: Path, other: Path) -> bool:
    """Whether both are one file or folder, by whatever names and links."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def check_writable(folder: Path, name: str = "OUTPUT") -> None:
    """Raises DataError where a file in `folder`, which need not exist, could not be written; name: of what was given
    as it."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise DataError(f"cannot write into {folder}: {there} is a file, not a folder; choose another {name}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"cannot write into {folder}: {WRITING[errno.EACCES].replace('OUTPUT', name)}")


def cannot_write(path: Path, error: OSError) -> str:
    reason = WRITING.get(error.errno or 0, f"{error.strerror or error}; choose another OUTPUT")
    return f"cannot write {path}: {reason}. The pictures listed above are written."
