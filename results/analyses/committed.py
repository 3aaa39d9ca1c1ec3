"""Analyses under `results/measured/<machine>/`: what `runner.py export` writes of them, and how it is read.

<name>.analyses.json        {"exported", "environments": {label: ...},
                             "analyses": {hash: {"key", "expected", "question", "columns"}}}
<name>.<analysis>.csv.xz    hash, then the columns of the rows; numbers with seven digits
<name>.<analysis>.arrays.xz    for analyses of ARRAYS: safetensors of "<hash>/<image>/<array>", numbers with three
                             digits (BITS). Of a set of more than MANY images those of the first MANY (lam) or the mean
                             of all, as of an image MEAN (erf); maps of classes hold the picture and its whole size:
                             those of pictures of FREE alone. Arrays of other analyses stay in the store
"""

import io
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save

from results import measured, records
from results.analyses.folder import FIXED, MEAN, Record, folders, read, typed
from results.records import StoreError

ARRAYS = ("lam", "erf", "sgn-classes")  # what figures cannot do without
FREE = ("embedded",)  # scikit-image's own pictures, which may be shown
BITS = 10  # of a float32's mantissa
MANY = 20  # images
PROVENANCE = ("command", "started", "commit", "device")  # what every row must say of itself
_TEXT = ("hash", "image", "pixels", "environment")


def export(root: Path, target: Path, exported: Mapping[str, Any]) -> list[str]:
    """Writes every record of the store at `root` to files whose names begin with `target`.

    Returns what was written, in words; nothing where there is none. Raises StoreError for a record that is damaged or
    does not say all of PROVENANCE, before anything is written.
    """
    found = [read(path) for path in folders(root)]
    environments: dict[str, Any] = {}
    tables: dict[str, list[pd.DataFrame]] = {}
    for record in found:
        for label, environment in record.environments.items():
            missing = [name for name in PROVENANCE if not environment.get(name)]
            if missing:
                raise StoreError(f"{record.folder} does not say its {', '.join(missing)}: it is not committed")
            environments[label] = environment
        rows = record.rows.sort_values(["image", "seed"], kind="stable")
        rows.insert(0, "hash", record.hash)
        tables.setdefault(record.key["analysis"], []).append(rows)
    lines = []
    for analysis, parts in tables.items():
        frame, path = pd.concat(parts, ignore_index=True), target.with_name(f"{target.name}.{analysis}.csv.xz")
        text = frame.to_csv(index=False, lineterminator="\n", float_format="%.7g")
        records.write_bytes(path, lzma.compress(text.encode(), preset=9))
        lines.append(f"{path}: {len(parts)} analyses, {len(frame)} rows")
        if analysis in ARRAYS:
            lines += _export_arrays([one for one in found if one.key["analysis"] == analysis], target)
    if found:
        about = {
            one.hash: {"key": one.key, "expected": one.expected, "question": one.question, "columns": one.columns}
            for one in found
        }
        content = {"exported": dict(exported), "environments": environments, "analyses": about}
        records.write_json(target.with_name(f"{target.name}.analyses.json"), content)
    return lines


def _export_arrays(found: list[Record], target: Path) -> list[str]:
    """Writes the arrays of records of one analysis, if there are any, and says so."""
    arrays = {
        f"{one.hash}/{image}/{name}": _rounded(values)
        for one in found
        for image, own in _kept(one).items()
        for name, values in own.items()
    }
    if not arrays:
        return []
    path = arrays_path(target, found[0].key["analysis"])
    records.write_bytes(path, lzma.compress(save(arrays), preset=9))
    return [f"{path}: {len(arrays)} arrays"]


def _kept(record: Record) -> dict[str, dict[str, np.ndarray]]:
    """By image, the arrays of a record that are committed."""
    images = sorted(record.rows["image"].unique())
    if record.key["analysis"] == "sgn-classes" and record.key["dataset"] not in FREE:
        return {}
    if len(images) <= MANY or record.key["analysis"] != "erf":
        return {image: record.arrays(image) for image in images[:MANY]}
    stored = [own for image in images if (own := record.arrays(image))]
    if len(stored) < len(images):
        return {}
    return {MEAN: {name: np.mean([own[name] for own in stored], axis=0, dtype=np.float32) for name in stored[0]}}


def arrays_path(target: Path, analysis: str) -> Path:
    """Of the files whose names begin with `target`."""
    return target.with_name(f"{target.name}.{analysis}.arrays.xz")


def _rounded(values: np.ndarray) -> np.ndarray:
    """float32 with BITS of the mantissa, the others 0, which compress to nothing; other types as they are."""
    if values.dtype != np.float32:
        return values
    dropped = 23 - BITS
    whole = (values.view(np.uint32) + np.uint32(1 << (dropped - 1))) >> dropped << dropped
    return whole.astype(np.uint32).view(np.float32)


def load(folder: Path | None = None) -> tuple[list[Record], list[str]]:
    """Every record under `folder` (results/measured), and a line for each file that cannot be used.

    A record that is in two files is there twice. Files with more rows come first, so that of equal records those are
    taken that were measured with most others.
    """
    folder, problems = measured.FOLDER if folder is None else folder, []
    files: list[list[Record]] = []
    for path in sorted(folder.glob("*/*.analyses.json")):
        try:
            files.append(_read(path))
        except StoreError as error:
            problems.append(" ".join(str(error).replace(f"{folder}/", "").split()))
    files.sort(key=lambda own: -sum(len(record.rows) for record in own))
    return [record for own in files for record in own], problems


def _read(path: Path) -> list[Record]:
    content = records.read_json(path)
    try:
        about, environments = content["analyses"], content["environments"]
        names = sorted({entry["key"]["analysis"] for entry in about.values()})
        stem = path.name.removesuffix(".analyses.json")
        tables = {name: _table(path.with_name(f"{stem}.{name}.csv.xz")) for name in names}
        result = []
        for name, entry in about.items():
            key, columns = entry["key"], entry["columns"]
            if records.key_of(key) != name:
                raise StoreError(f"{path}: the key of {name} belongs to {records.key_of(key)}")
            rows, labels = tables[key["analysis"]].get(name, (None, ()))
            if rows is None or (missing := [one for one in (*FIXED, *columns) if one not in rows.columns]):
                raise StoreError(f"{path}: {name} lacks {'its rows' if rows is None else ', '.join(missing)}")
            used = {label: environments[label] for label in labels}
            names = [*FIXED, *columns]
            rows = rows if list(rows.columns) == names else rows[names]
            archive = arrays_path(path.with_name(stem), key["analysis"])
            where = {"archive": archive if archive.exists() else None}
            result.append(Record(key, int(entry["expected"]), entry["question"], columns, rows, used, **where))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} lacks a part: {error}") from error
    return result


def _table(path: Path) -> dict[str, tuple[pd.DataFrame, list[str]]]:
    """By hash the rows, and the labels of their environments. What can be done to all at once is: of hundreds of
    records one by one it takes longer than to read them."""
    try:
        text = lzma.decompress(path.read_bytes()).decode()
        names = pd.read_csv(io.StringIO(text), nrows=0).columns
        empty = {name: [""] for name in names if name not in _TEXT}  # an image may be called NA
        options = {"dtype": dict.fromkeys(_TEXT, str), "keep_default_na": False, "na_values": empty}
        frame = pd.read_csv(io.StringIO(text), **options)
        if not set(FIXED) <= set(frame.columns):
            return {name: (rows, []) for name, rows in frame.groupby("hash", sort=False)}
        codes, hashes = pd.factorize(frame["hash"])
        frame = typed(frame.drop(columns="hash").iloc[np.argsort(codes, kind="stable")])
        places = pd.DataFrame({"code": np.sort(codes), "environment": frame["environment"]}).drop_duplicates()
        labels = places.groupby("code")["environment"].agg(list)
        ends = np.cumsum(np.bincount(codes, minlength=len(hashes)))
        found = {}
        for name, start, end, own in zip(hashes, np.r_[0, ends[:-1]], ends, labels, strict=True):
            found[name] = frame.iloc[start:end].reset_index(drop=True), own
        return found
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing") from error
    except (OSError, lzma.LZMAError, UnicodeDecodeError, ValueError, KeyError) as error:
        raise StoreError(f"{path} cannot be read as compressed CSV: {str(error).splitlines()[0]}") from error
