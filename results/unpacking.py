"""Files taken out of an archive or a folder of results, into a scratch store.

A member is taken only when it is one of the store's own file names inside a folder named by a hash, and is written to a
path made here, never to the one the archive asks for; links, devices and everything else are left out.
"""

import math
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from results import families, records
from results.agreement import other_machines
from results.analyses import folder as analyses
from results.records import StoreError, guarded
from results.store import EVALUATIONS, is_hash

LEAST, RATIO = 2**30, 200  # an archive may unpack to so many bytes, or to so many times its own
LIMIT_VARIABLE = "MAMBAIR_BENCH_MAX_IMPORT"
UNREADABLE = (  # what zipfile and tarfile raise: RuntimeError for encrypted members, UnicodeDecodeError for names
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error),
    *(EOFError, OSError, RuntimeError, UnicodeDecodeError),
)
CELL_FILES = (
    *("config.json", "environment.json", "status.json"),
    *("scores.parquet", other_machines.NAME, "train.jsonl", "weights.safetensors"),
)
OTHERS = re.compile(  # of a cell: other weights than its last, and scores of other weights and seeds of the noise
    r"(half|average|weights-\d+)\.safetensors|scores-(half|average|last|\d+)(-\d+)?\.parquet"
)
RECORD_FILES = ("record.json", "environment.json", "scores.parquet", other_machines.NAME)
ANALYSIS_FILES = ("config.json", "environment.json", "rows.parquet")
UNDER = {EVALUATIONS: RECORD_FILES, families.FOLDER: (families.FILE,), analyses.FOLDER: ANALYSIS_FILES}


def collect(path: Path, scratch: Path, refused: list[str]) -> int:
    """Copies every known file under `path`, an archive or a folder, to its place under `scratch`; returns how many.

    refused: gets a sentence for every member that is left out. Raises StoreError for a path that is no archive or is
    damaged, and for one that unpacks to more than LEAST and RATIO allow.
    """
    if path.is_dir():
        members = _folder_members(path)
    elif not path.exists():
        raise StoreError(f"{path} is not there: give an archive (.zip, .tar.gz, .tgz, .tar) or a folder of results")
    elif zipfile.is_zipfile(path):
        members = _zip_members(path)
    elif _is_tar(path):
        members = _tar_members(path, refused)
    else:
        raise StoreError(f"{path} is no archive that can be read: give a .zip, .tar.gz, .tgz, .tar, or a folder")
    count, room = 0, math.inf
    if not path.is_dir():
        room = records.limit(LIMIT_VARIABLE, max(LEAST, RATIO * path.stat().st_size))
    try:
        for name, opened in members:
            target = _place(name)
            if target is None:
                if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                    refused.append(f"{name}: a path that leads out of the archive")
                continue
            if (scratch / target).exists():
                refused.append(f"{name}: the archive holds {target} twice; the first is taken")
                continue
            room -= _copy(opened, scratch / target, room)
            count += 1
    except StoreError:
        raise
    except UNREADABLE as error:
        raise StoreError(f"{path} is cut off, damaged or encrypted: {error}") from error
    return count


def _is_tar(path: Path) -> bool:
    """Whether it begins as one. Raises StoreError when it is cut off within what its first member takes."""
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error, OSError) as error:
        raise StoreError(f"{path} is cut off, damaged or encrypted: {error}") from error


def _place(name: str) -> Path | None:
    """Where in a store a member of this name belongs; None for anything that is not part of one."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = path.parts
    if len(parts) < 2 or ".." in parts or path.is_absolute():
        return None
    if len(parts) > 3 and parts[-4] == analyses.FOLDER and is_hash(parts[-3]) and parts[-2] == analyses.ARRAYS:
        return Path(*parts[-4:]) if path.suffix == ".safetensors" else None
    if not is_hash(parts[-2]):
        return None
    if len(parts) > 2 and parts[-3] in UNDER:
        return Path(*parts[-3:]) if parts[-1] in UNDER[parts[-3]] else None
    return Path(parts[-2], parts[-1]) if parts[-1] in CELL_FILES or OTHERS.fullmatch(parts[-1]) else None


def _copy(source: IO[bytes], target: Path, room: float) -> int:
    """Bytes copied. Raises StoreError when they are more than `room`."""
    count = 0
    with source:
        with guarded(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = open(target, "wb")  # noqa: SIM115  (closed below: errors of reading and of writing are told apart)
        try:
            while chunk := source.read(1 << 20):
                count += len(chunk)
                if count > room:
                    raise StoreError(
                        "the archive unpacks to far more than results do: refused before it fills the disk; "
                        f"{LIMIT_VARIABLE}=BYTES in the environment raises the limit, for one that you trust"
                    )
                with guarded(target):
                    file.write(chunk)
            with guarded(target):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with guarded(target):
                file.close()  # which writes what a full disk has refused once more
    return count


def _folder_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path.parent if is_hash(path.name) else path).as_posix()
        if file.is_file() and not file.is_symlink() and _place(name):
            yield name, open(file, "rb")  # noqa: SIM115  (closed by _copy)


def _zip_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield member.filename, archive.open(member)


def _tar_members(path: Path, refused: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            opened = archive.extractfile(member) if member.isfile() else None
            if opened is not None:
                yield member.name, opened
            elif not member.isdir():
                refused.append(f"{member.name}: a link or device, not a file")
