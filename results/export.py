"""Commits what a store holds: `runner.py export STORE MACHINE/NAME` writes files that `results.measured` reads.

What does not say by which command and when it was measured is refused, unless --command and --finished say it.
"""

import lzma
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from results import families, measured, records
from results.measured import PROVENANCE, SCORE_COLUMNS
from results.records import StoreError
from results.store import TOLD, Store

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of MACHINE/NAME: no path that leads elsewhere


def place(name: str) -> Path:
    """Where `name`, MACHINE/NAME, lies under `measured.FOLDER`; endings are added to it.

    Raises StoreError for any other form, so that nothing is written outside.
    """
    parts = name.split("/")
    if len(parts) != 2 or not all(map(PART.fullmatch, parts)):
        raise StoreError(
            f"{name!r} is not MACHINE/NAME: give the folder under results/measured and a name, such as h200/pilot, "
            "both of letters, digits, dots, dashes and underscores"
        )
    return measured.FOLDER.joinpath(*parts)


def export(store: Store, name: str, command: str, known: Mapping[str, str | None] | None = None) -> list[str]:
    """Writes `<name>.scores.json`, its CSV and the families of every finished cell and evaluation record of `store`.

    name: MACHINE/NAME under `measured.FOLDER`. command: by which this is called, kept with the date. known: what of
    PROVENANCE is filled in where an environment lacks it. What stood there is replaced. Returns what was written, in
    words. Raises StoreError for another form of name, for a record or cell that is damaged or does not say all of
    PROVENANCE, and for an empty store; nothing is written then.
    """
    target, known = place(name), known or {}
    environments: dict[str, Any] = {}
    evaluations: dict[str, Any] = {}
    cells: dict[str, Any] = {}
    tables = []
    for folder in store.evaluation_folders():
        rows, record = store.read_evaluation(folder)
        for label, environment in record["environments"].items():
            environments[label] = _with_provenance(environment, known, f"evaluation {folder.name}")
        told = {name: record[name] for name in TOLD if record[name]}
        evaluations[folder.name] = {"key": record["key"], "expected": record["expected"], **told}
        tables.append(rows.assign(hash=folder.name))
    for folder in store.cell_folders():
        status = store.status(folder)
        if status["state"] == "done":
            environment = records.read_json(folder / "environment.json")
            environment = _with_provenance(environment, known, f"cell {folder.name}")
            count = measured.parameters(folder / "weights.safetensors")
            config = store.read_config(folder)
            cells[folder.name] = {"config": config, "status": status, "environment": environment, "parameters": count}
            tables.append(records.read_frame(folder / "scores.parquet").assign(hash=folder.name, environment=""))
    if not tables:
        raise StoreError(f"{store.root} holds no finished cell and no evaluation record")
    frame = pd.concat(tables, ignore_index=True).reindex(columns=list(SCORE_COLUMNS))
    frame = frame.sort_values(
        "hash", kind="stable", ignore_index=True
    )  # keeps the order, and so the last bit, of means
    exported = {"command": command, "date": records.now()}
    content = {"exported": exported, "environments": environments, "evaluations": evaluations, "cells": cells}
    text = frame.to_csv(index=False, lineterminator="\n")
    records.write_bytes(target.with_name(f"{target.name}.scores.csv.xz"), lzma.compress(text.encode(), preset=9))
    records.write_json(target.with_name(f"{target.name}.scores.json"), content)
    members = store.family_folders() if cells else []
    for folder in members:
        copy = target.parent / families.FOLDER / folder.name / families.FILE
        with records.guarded(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / families.FILE, copy)
    counts = f"{len(evaluations)} evaluation records, {len(cells)} cells, {len(frame)} scores of images"
    return [f"{target}: {counts}, {len(members)} members of families"]


def _with_provenance(environment: Mapping[str, Any], known: Mapping[str, str | None], where: str) -> dict[str, Any]:
    result = {**known, **{name: value for name, value in environment.items() if value not in (None, "")}}
    missing = [name for name in PROVENANCE if not result.get(name)]
    if missing:
        raise StoreError(f"{where} does not say its {', '.join(missing)}: such a number is not committed")
    return result
