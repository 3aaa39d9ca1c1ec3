"""Scores of the same pictures by the same weights on other machines, where they differ from those of the record.

`other_machines.parquet` lies beside `scores.parquet`: a row per image and machine with COLUMNS, so that it says by
itself where each was measured.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from results import records
from results.agreement import rule

NAME = "other_machines.parquet"
VERSIONS = ("torch", "triton")  # of packages that make the bits
MACHINE = (*("device", "device_type", "processor", "backend", *VERSIONS, "threads", "commit", "command", "finished"),)
ORDER = ("dataset", "image", "device", "backend")
COLUMNS = ("dataset", "image", "pixels", *records.SCORES, "seconds", *MACHINE)


def machine_of(environment: Mapping[str, Any]) -> dict[str, Any]:
    """MACHINE, of an environment.json."""
    versions = environment.get("versions") or {}
    return {name: (versions if name in VERSIONS else environment).get(name) for name in MACHINE}


def with_machine(rows: pd.DataFrame, environments: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """`rows` with the columns MACHINE of the environments that their column `environment` names."""
    found = [machine_of(environments.get(label) or {}) for label in rows["environment"]]
    columns = {name: pd.Series([one[name] for one in found], rows.index, dtype=object) for name in MACHINE}
    return rows.assign(**columns)


def cell_with_machine(folder: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The same of rows of the cell in `folder`, which one machine measured."""
    return with_machine(rows.assign(environment=""), {"": records.read_json(folder / "environment.json")})


def compare_in(
    folder: Path,
    old: pd.DataFrame,
    new: pd.DataFrame,
    protocol: Mapping[str, Any],
    others: pd.DataFrame | None = None,
) -> rule.Comparison:
    """`rule.compare` of rows that join those in `folder`, where what other machines said counts too.

    old: rows of the folder; new: those that join; both `with_machine`. others: of the same images as `new`, by other
    machines (`read`). Raises StoreError for a damaged file in `folder`.
    """
    known = joined(old, read(folder))
    if others is not None:
        others = others[others.set_index(["dataset", "image"]).index.isin(new.set_index(["dataset", "image"]).index)]
    return rule.compare(known, joined(new, others), protocol)


def joined(first: pd.DataFrame, second: pd.DataFrame | None) -> pd.DataFrame:
    """Both, one after the other; either may be empty."""
    frames = [frame for frame in (first, second) if frame is not None and len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else first


def distinct(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of several records (with `hash`), each score of a machine, its versions and commit once."""
    return rows.drop_duplicates(["hash", *ORDER, "processor", *VERSIONS, "commit"], ignore_index=True)


def read(folder: Path) -> pd.DataFrame:
    """What lies in the folder of a cell or a record; an empty frame where nothing does. Raises StoreError for a damaged
    file."""
    path = folder / NAME
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    frame = records.read_frame(path)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise records.StoreError(f"{path}: the table has no column {', '.join(missing)}")
    return frame


def add(folder: Path, rows: pd.DataFrame) -> None:
    """Adds rows (`rule.Comparison.differing`) to what lies in `folder`; writes nothing where there are none."""
    if len(rows):
        records.write_frame(folder / NAME, joined(read(folder), rows.reindex(columns=list(COLUMNS))))
