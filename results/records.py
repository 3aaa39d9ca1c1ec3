"""Files that are whole or absent, and names made from what they hold.

Every file of the store is JSON, Parquet or safetensors; every write goes to a temporary file near its target, reaches
the disk, and takes the target's place in one step. A reader therefore never sees half a file, and a failed write
(no space, read-only) leaves what was there.
"""

import errno
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
from pyarrow import parquet

# The order in which a protocol is stored and hashed: the contract of the store, not of any program that fills it.
PROTOCOL_KEYS = (
    "tiling",
    "routing",
    "samples",
    "seed",
    "prompt_order",
    "lr_route",
    "luma",
    "channels",
    "border",
    "precision",
)
LEFT_S = 3600.0  # no write of one file takes so long
CONTENT = b"sha256"  # of a table's cells, among its metadata
SCORES = ("psnr", "ssim", "psnr_single")


class StoreError(RuntimeError):
    """The store cannot be read, cannot be written, or would contradict itself. One line, and nothing was lost."""


class WriteError(StoreError):
    """The disk refused: full, read-only, or in the way. Whatever else is to be written there will fail too."""


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turns an OSError met while writing at or under `path` into a WriteError that says what to do."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "no space is left there; free some, or choose another folder with --results",
            errno.EDQUOT: "the disk quota is used up; free some, or choose another folder with --results",
            errno.EROFS: "the file system is read-only; choose another folder with --results",
            errno.EACCES: "permission denied; choose another folder with --results",
            errno.ENOTDIR: "a part of that path is a file, not a folder; choose another folder with --results",
            errno.EEXIST: "a file is in the way of the folder; choose another folder with --results",
        }.get(error.errno or 0, error.strerror or str(error))
        raise WriteError(f"cannot write {path}: {advice}. Nothing stored before is lost.") from error


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def canonical(value: Any, name: str = "") -> Any:
    """`value` with sorted keys (a protocol in its own order), tuples as lists: what is written and what is hashed.

    Raises StoreError for a protocol without exactly the keys of `PROTOCOL_KEYS`, and for what JSON cannot hold.
    """
    if isinstance(value, Mapping):
        if name == "protocol":
            if set(value) != set(PROTOCOL_KEYS):
                odd = ", ".join(sorted(map(str, set(value) ^ set(PROTOCOL_KEYS))))
                raise StoreError(f"a protocol holds exactly {', '.join(PROTOCOL_KEYS)}; too many or too few: {odd}")
            return {key: canonical(value[key]) for key in PROTOCOL_KEYS}
        return {key: canonical(value[key], key) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise StoreError(f"{value!r} of type {type(value).__name__} cannot be stored as JSON")


def key_of(config: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON, without spaces: the name of its folder.

    A stored config.json keeps the canonical order, so that
    `sha256(json.dumps(json.load(open("config.json")), separators=(",", ":")))` gives the name again.
    """
    try:
        text = json.dumps(canonical(config), separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise StoreError(f"a configuration with a number that is not finite cannot be stored: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` in one step. Raises StoreError; then the old content is still there.

    What a process that was killed left of the same file's writing is removed once it is LEFT_S old.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with guarded(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f".{path.name}.*.tmp"):
                with suppress(FileNotFoundError):  # another writer was first
                    if time.time() - left.stat().st_mtime > LEFT_S:
                        left.unlink()
            with open(scratch, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except BaseException:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def set_aside(path: Path) -> Path:
    """Renames a damaged file to the first name free among `<name>.corrupt`, `<name>.corrupt.2`, ..., which is returned.

    Raises WriteError where the folder does not allow it.
    """
    aside, number = path.with_name(f"{path.name}.corrupt"), 2
    while aside.exists():
        aside, number = path.with_name(f"{path.name}.corrupt.{number}"), number + 1
    with guarded(path):
        os.replace(path, aside)
    return aside


def limit(variable: str, default: int) -> int:
    """A limit that the environment may raise, 1 or more. Raises StoreError for a value that is no whole number."""
    text = os.environ.get(variable, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise StoreError(f"{variable} is {text!r}: give a whole number, without a unit")
    return int(text)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable, where the system can."""
    with suppress(OSError):  # some network file systems refuse to sync a folder; the data itself is already synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """The table with a checksum of its cells: Parquet itself does not notice a changed name or number of rows."""
    table, buffer = pyarrow.Table.from_pandas(frame, preserve_index=False), io.BytesIO()
    content = {CONTENT: _content(table.to_pandas())}  # of the types that a reader gets
    parquet.write_table(table.replace_schema_metadata(table.schema.metadata | content), buffer)
    write_bytes(path, buffer.getvalue())


def _content(frame: pd.DataFrame) -> bytes:
    cells = frame.astype(object).where(frame.notna(), None).values.tolist()
    return hashlib.sha256(json.dumps([list(frame.columns), cells], default=str).encode()).hexdigest().encode()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises StoreError naming the file when it is missing, unreadable, or no object."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} holds no JSON object")
    return value


def read_frame(path: Path) -> pd.DataFrame:
    """A score table. Raises StoreError naming the file when it is missing, unreadable, or lacks a column."""
    try:
        table = parquet.read_table(io.BytesIO(path.read_bytes()))
        frame = table.to_pandas()
        said = (table.schema.metadata or {}).get(CONTENT)  # which tables of older stores do not have
        damaged = said is not None and said != _content(frame)
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing") from error
    except Exception as error:  # pyarrow raises classes of its own for a damaged file, OSError among them
        raise StoreError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    if damaged:
        raise StoreError(f"{path} is damaged: its checksum is another")
    return check_rows(frame, str(path))


def check_rows(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """`frame` with scores as float64 (null: identical images). Raises StoreError for a missing column."""
    missing = [name for name in ("dataset", "image", "pixels", "psnr", "ssim") if name not in frame.columns]
    if missing:
        raise StoreError(f"{where}: the score table has no column {', '.join(missing)}")
    frame = frame.reset_index(drop=True)
    for name in SCORES:
        if name in frame.columns:
            frame[name] = frame[name].astype("float64")
    return frame


def summarise(rows: pd.DataFrame, expected: Mapping[str, int]) -> list[dict[str, Any]]:
    """One dict per dataset: images, expected, complete, coverage, and the means, None unless every image is there.

    A mean is None too when an image was restored exactly (its PSNR is null).
    """
    sets = []
    for dataset, part in rows.groupby("dataset", sort=True):
        wanted = int(expected.get(dataset, 0))
        complete = len(part) == wanted
        entry = {"dataset": dataset, "images": len(part), "expected": wanted, "complete": complete}
        entry["coverage"] = f"{len(part)} images" if complete else f"{len(part)} of {wanted or '?'} images"
        for score in SCORES:
            mean = part[score].mean(skipna=False) if complete and score in part.columns else None
            entry[score] = None if mean is None or pd.isna(mean) else float(mean)
        sets.append(entry)
    return sets
