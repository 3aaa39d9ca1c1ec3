"""One analysis of one network on one set, as a folder of the store. Files are whole or absent, one writer at a time."""

import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save

from results import locks, records
from results.records import StoreError
from results.store import is_hash

FOLDER, ARRAYS = "analyses", "arrays"
FIXED = ("image", "pixels", "seed", "environment")  # what every table of rows begins with
UNIT = ["image", "seed"]  # what is measured at once; an analysis may have several rows for it
MEAN = "*"  # in the place of an image: arrays are means over all


@dataclass(frozen=True)
class Record:
    """What an analysis found on one set.

    key: of `key`. expected: images of the whole set. question: in words. columns: what each column of its own holds,
    with its unit. rows: FIXED (image: stem; pixels: SHA-256 of the ground truth; seed: of the routing noise, missing
    where nothing is drawn; environment: a label), then those columns. environments: by label. folder: where arrays
    lie, None for what is committed; archive: a file of committed ones.
    """

    key: dict[str, Any]
    expected: int
    question: str
    columns: dict[str, str]
    rows: pd.DataFrame
    environments: dict[str, dict[str, Any]]
    folder: Path | None = None
    archive: Path | None = None

    @cached_property
    def hash(self) -> str:
        return records.key_of(self.key)

    @property
    def complete(self) -> bool:
        """Whether every image of the set is there."""
        return self.rows["image"].nunique() == self.expected

    def arrays(self, image: str) -> dict[str, np.ndarray]:
        """The arrays of an image; none where none are stored. Raises StoreError for a damaged file."""
        if self.folder is not None:
            return read_arrays(arrays_path(self.folder, image))
        if self.archive is None:
            return {}
        own = f"{self.hash}/{image}/"
        archived = read_archive(self.archive).items()
        return {name.removeprefix(own): values for name, values in archived if name.startswith(own)}


def key(
    analysis: str,
    parameters: Mapping[str, Any],
    *,
    model: str,
    overrides: Mapping[str, Any],
    weights: str,
    task: str,
    dataset: str,
    protocol: Mapping[str, Any],
) -> dict[str, Any]:
    """What names a record. weights: SHA-256. protocol: its seed is 0, since rows say theirs."""
    names = {"analysis": analysis, "parameters": dict(parameters), "model": model, "overrides": dict(overrides)}
    return records.canonical(
        {**names, "weights": weights, "task": task, "dataset": dataset, "protocol": {**protocol, "seed": 0}}
    )


def place(root: Path, name: Mapping[str, Any]) -> Path:
    """The folder of the record with the key `name`."""
    return root / FOLDER / records.key_of(name)


def folders(root: Path) -> list[Path]:
    """Those of every record in the store at `root`."""
    parent = root / FOLDER
    return sorted(path for path in parent.iterdir() if is_hash(path.name)) if parent.is_dir() else []


def arrays_path(folder: Path, image: str) -> Path:
    return folder / ARRAYS / f"{image}.safetensors"


def read(folder: Path) -> Record:
    """Raises StoreError for a record that is damaged or belongs to another folder."""
    config = records.read_json(folder / "config.json")
    try:
        record = Record(
            config["key"],
            int(config["expected"]),
            config["question"],
            config["columns"],
            _read_rows(folder / "rows.parquet"),
            records.read_json(folder / "environment.json"),
            folder,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder / 'config.json'} lacks a part: {error}") from error
    if record.hash != folder.name:
        raise StoreError(f"{folder / 'config.json'} has a key that belongs to the folder {record.hash}")
    return record


def measured_units(folder: Path) -> pd.DataFrame:
    """image, pixels and seed of what is stored; empty where nothing is. Raises StoreError for damaged rows."""
    path = folder / "rows.parquet"
    rows = _read_rows(path) if path.exists() else typed(pd.DataFrame(columns=list(FIXED)))
    return rows[["image", "pixels", "seed"]].drop_duplicates(ignore_index=True)


def add(
    root: Path,
    name: Mapping[str, Any],
    rows: pd.DataFrame,
    environment: Mapping[str, Any],
    *,
    expected: int,
    question: str,
    columns: Mapping[str, str],
    arrays: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Merges rows (image, pixels, seed and `columns`) and arrays by image into the record of the key `name`.

    What is stored for an image and a seed stays. Raises StoreError, and changes nothing, where an image has other
    pixels there.
    """
    folder, label = place(root, name), records.key_of(environment)[:8]
    with locks.exclusive(root / FOLDER / ".lock"):
        for image, own in (arrays or {}).items():
            path = arrays_path(folder, image)
            records.write_bytes(path, save({**read_arrays(path), **_contiguous(own)}))
        path, rows = folder / "rows.parquet", typed(rows.assign(environment=label)[[*FIXED, *columns]])
        known, environments = {}, {}
        if path.exists():
            old = _read_rows(path)
            check_pixels(old, rows, folder)
            new = rows.merge(old[UNIT].drop_duplicates(), on=UNIT, how="left", indicator=True)["_merge"] == "left_only"
            rows = pd.concat([old, rows[new.to_numpy()]], ignore_index=True)
            environments = records.read_json(folder / "environment.json")
            known = records.read_json(folder / "config.json")
        if label not in environments:
            records.write_json(folder / "environment.json", {**environments, label: dict(environment)})
        about = {"expected": expected, "question": question, "columns": dict(columns)}
        if known != (config := {"key": records.canonical(name), **about}):
            records.write_json(folder / "config.json", config)
        records.write_frame(path, rows)


def typed(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with seeds as integers that may be missing, and names as text."""
    wanted = {"image": "str", "pixels": "str", "seed": "Int64", "environment": "str"}
    odd = {name: kind for name, kind in wanted.items() if str(rows[name].dtype) != kind}
    return rows.astype(odd).reset_index(drop=True) if odd else rows.reset_index(drop=True)


def check_pixels(old: pd.DataFrame, new: pd.DataFrame, folder: Path) -> None:
    """Raises StoreError where an image that both frames (image, pixels) have is another picture in each."""
    both = new[["image", "pixels"]].merge(old[["image", "pixels"]].drop_duplicates(), on="image")
    odd = sorted(set(both[both["pixels_x"] != both["pixels_y"]]["image"]))
    if odd:
        names = f"{', '.join(odd[:3])}{', ...' if odd[3:] else ''}"
        raise StoreError(
            f"{folder}: {names} is another picture here. Nothing was changed; --results names another store"
        )


def _read_rows(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing") from error
    except Exception as error:  # pyarrow raises classes of its own for a damaged file
        raise StoreError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    missing = [name for name in FIXED if name not in frame.columns]
    if missing:
        raise StoreError(f"{path} has no column {', '.join(missing)}")
    return typed(frame)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; none where there is none. Raises StoreError for a damaged one."""
    if not path.exists():
        return {}
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read as safetensors: {error}") from error


@lru_cache(maxsize=2)
def read_archive(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a compressed file, by their whole names. Raises StoreError for a damaged one."""
    try:
        return load(lzma.decompress(path.read_bytes()))
    except (OSError, lzma.LZMAError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read as compressed safetensors: {error}") from error


def _contiguous(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
