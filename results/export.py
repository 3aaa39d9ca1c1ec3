"""Commits what a store holds: `runner.py export STORE MACHINE/NAME` writes files that `results.measured` reads.

What does not say by which command and when it was measured is refused, unless --command and --finished say it.

A cell's folder may hold scores of its other weights, and under other seeds of the routing noise, as a suite's `Scoring`
asks for them: scores-<half|average|last>-<seed>.parquet, scores-<iteration>.parquet (under the protocol's seed) and
scores-<iteration>-<seed>.parquet. They are committed as `<name>.csv.xz` with COLUMNS, or, where `name` begins with
"curve", as `<name>.csv` with CURVE_COLUMNS and `<name>.json` that says on what and how the cells were trained.
So are those of cells that are not finished, once they have any: without scores of their own, at the step they are at.
The cells' training logs are committed as `<name>.training.csv.xz`: hash, then what `train.jsonl` has in a line.
"""

import lzma
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from results import crops, families, measured, records
from results.agreement import other_machines
from results.analyses import committed
from results.costs import committed as costs
from results.measured import PROVENANCE, SCORE_COLUMNS
from results.records import StoreError
from results.store import Store
from results.store.columns import TOLD

FILE = re.compile(r"scores-(half|average|last|\d+)(?:-(\d+))?\.parquet")
COLUMNS = ("hash", "weights", "gumbel", "dataset", "image", "psnr", "ssim", "seconds")
CURVE_COLUMNS = ("seed", "iteration", "dataset", "image", "psnr", "ssim")
TRAINED_ON = ("device", "device_type", "backend", "threads", "system", "python", "versions", "commit")
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
    """Writes `<name>.scores.json`, its CSV and the families of every evaluation record of `store` and of every cell
    that is finished or scored on its way.
    Its analyses and sweeps are written as `results.analyses.committed` and `results.costs.committed` say.

    name: MACHINE/NAME under `measured.FOLDER`. command: by which this is called, kept with the date. known: what of
    PROVENANCE is filled in where an environment lacks it. What stood there is replaced. Returns what was written, in
    words. Raises StoreError for another form of name, for a record or cell that is damaged or does not say all of
    PROVENANCE, and for an empty store; nothing is written then.
    """
    target, known = place(name), known or {}
    environments: dict[str, Any] = {}
    evaluations: dict[str, Any] = {}
    cells: dict[str, Any] = {}
    tables, others = [], store.other_machines()
    _check_other_machines(others)
    for folder in store.evaluation_folders():
        rows, record = store.read_evaluation(folder)
        for label, environment in record["environments"].items():
            environments[label] = _with_provenance(environment, known, f"evaluation {folder.name}")
        told = {name: record[name] for name in TOLD if record[name]}
        evaluations[folder.name] = {"key": record["key"], "expected": record["expected"], **told}
        tables.append(rows.assign(hash=folder.name))
    for folder in _told_cells(store):
        status, config = store.status(folder), store.read_config(folder)
        environment, done = records.read_json(folder / "environment.json"), status["state"] == "done"
        environment = _with_provenance(environment, known, f"cell {folder.name}", finished=done)
        count = measured.parameters(folder / "weights.safetensors") if done else None
        cells[folder.name] = {"config": config, "status": status, "environment": environment, "parameters": count}
        if done:
            tables.append(records.read_frame(folder / "scores.parquet").assign(hash=folder.name, environment=""))
    logs = _logs(store)
    exported = {"command": command, "date": records.now()}
    analyses = committed.export(store.root, target, exported) + costs.export(store.root, target, exported)
    if not tables and not cells:
        if not analyses:
            raise StoreError(f"{store.root} holds no finished cell, no evaluation record, no analysis and no sweep")
        return analyses
    frame = pd.concat(tables or [pd.DataFrame(columns=["hash"])], ignore_index=True)
    frame = frame.reindex(columns=list(SCORE_COLUMNS))
    frame = frame.sort_values(
        "hash", kind="stable", ignore_index=True
    )  # keeps the order, and so the last bit, of means
    content = {"exported": exported, "environments": environments, "evaluations": evaluations, "cells": cells}
    text = frame.to_csv(index=False, lineterminator="\n")
    records.write_bytes(target.with_name(f"{target.name}.scores.csv.xz"), lzma.compress(text.encode(), preset=9))
    records.write_json(target.with_name(f"{target.name}.scores.json"), content)
    lines = _export_other_machines(target, others)
    members = store.family_folders() if cells else []
    for folder in members:
        copy = target.parent / families.FOLDER / folder.name / families.FILE
        with records.guarded(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / families.FILE, copy)
    lines += [*export_crops(store, name), *export_others(store, name)]
    if logs:
        path = target.with_name(f"{target.name}.training.csv.xz")
        text = pd.concat(logs, ignore_index=True).to_csv(index=False, lineterminator="\n", float_format="%.7g")
        records.write_bytes(path, lzma.compress(text.encode(), preset=9))
        lines.append(f"{path}: training logs of {_counted(len(logs), 'cell')}")
    counts = [_counted(len(evaluations), "evaluation record"), _counted(len(cells), "cell")]
    counts += [_counted(len(frame), "score of an image", "scores of images")]
    counts += [_counted(len(members), "member of families", "members of families")]
    return [f"{target}: {', '.join(counts)}", *lines, *analyses]


def _counted(number: int, one: str, many: str | None = None) -> str:
    """1 cell, 2 cells."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _told_cells(store: Store) -> list[Path]:
    """Folders of the cells that are finished or scored on their way."""
    folders = {folder: store.status(folder)["state"] for folder in store.cell_folders()}
    return [folder for folder, state in folders.items() if state == "done" or any(folder.glob("scores-*.parquet"))]


def _with_provenance(
    environment: Mapping[str, Any], known: Mapping[str, str | None], where: str, *, finished: bool = True
) -> dict[str, Any]:
    """finished: whether it must say when that was."""
    result = {**known, **{name: value for name, value in environment.items() if value not in (None, "")}}
    missing = [name for name in PROVENANCE if not result.get(name) and (finished or name != "finished")]
    if missing:
        raise StoreError(f"{where} does not say its {', '.join(missing)}: such a number is not committed")
    return result


def _check_other_machines(rows: pd.DataFrame) -> None:
    for row in rows.to_dict("records"):
        _with_provenance(row, {}, f"a score of {row['hash']} from another machine")


def _export_other_machines(target: Path, rows: pd.DataFrame) -> list[str]:
    """Writes what other machines scored otherwise, if anything. Returns what was written, in words."""
    path = target.with_name(f"{target.name}.other-machines.csv.xz")
    if rows.empty:
        with records.guarded(path):
            path.unlink(missing_ok=True)  # of an earlier export
        return []
    rows = rows.sort_values(["hash", *other_machines.ORDER], kind="stable", ignore_index=True)
    text = rows.to_csv(index=False, lineterminator="\n")
    records.write_bytes(path, lzma.compress(text.encode(), preset=9))
    return [f"{path}: {_counted(len(rows), 'score')} of other machines, beside those of the records"]


def export_crops(store: Store, name: str) -> list[str]:
    """Commits the crops of pictures that records of `store` have, if any. Returns what was written, in words."""
    target, count = place(name).parent / crops.FOLDER, 0
    for folder in store.evaluation_folders():
        if (folder / crops.FOLDER).is_dir():
            with records.guarded(target):
                shutil.copytree(folder / crops.FOLDER, target / folder.name, dirs_exist_ok=True)
            count += 1
    return [f"{target}: pictures of {_counted(count, 'record')}"] if count else []


def _logs(store: Store) -> list[pd.DataFrame]:
    """The training logs of the cells that are told of, with their hash."""
    tables = []
    for folder in _told_cells(store):
        log = folder / "train.jsonl"
        if log.exists():
            try:
                lines = pd.read_json(log, lines=True)
            except (OSError, ValueError) as error:
                raise StoreError(f"{log} cannot be read as lines of JSON: {error}") from error
            tables.append(lines.assign(hash=folder.name)[["hash", *lines.columns]])
    return tables


# Scores of other weights


def score_files(folder: Path, seed: int) -> dict[tuple[str, int], Path]:
    """(weights, seed of the noise) -> file, its own table among them; nothing where there is no other.

    weights: "last", "half", "average", or an iteration. seed: the protocol's.
    """
    files = {}
    for path in sorted(folder.glob("scores-*.parquet")):
        if match := FILE.fullmatch(path.name):
            files[match[1], int(match[2] or seed)] = path
    return {("last", seed): folder / "scores.parquet", **files} if files else {}


def export_others(store: Store, name: str) -> list[str]:
    """Commits the scores of the cells of `store` that have others than their own, if any.

    name: MACHINE/NAME under results/measured. `seconds` is a share of the time: what restoring took over the number of
    processes that did so at a time. Returns what was written, in words.
    """
    target, tables, cells = place(name), [], []
    for folder in _told_cells(store):
        config, environment = store.read_config(folder), records.read_json(folder / "environment.json")
        files = score_files(folder, config["protocol"]["seed"])
        if files:
            cells.append((config, environment))
        for (weights, seed), path in files.items():
            if not path.exists():  # its own, of a cell that is not finished
                continue
            last = weights in ("last", "average")
            iteration = config["budget"]["iterations"] if last else None if weights == "half" else int(weights)
            facts = {"hash": folder.name, "weights": weights, "gumbel": seed}
            facts |= {"seed": config["seed"], "iteration": iteration}
            rows = records.read_frame(path)
            tables.append(rows.assign(**facts, seconds=rows["seconds"] / max(1, environment.get("scorers") or 1)))
    if not tables:
        return []
    frame = pd.concat(tables, ignore_index=True)
    if not target.name.startswith("curve"):
        text = frame[list(COLUMNS)].to_csv(index=False, lineterminator="\n", float_format="%.6f")
        path = target.with_name(f"{target.name}.csv.xz")
        records.write_bytes(path, lzma.compress(text.encode(), preset=9))
        return [f"{path}: {_counted(len(frame), 'score of an image', 'scores of images')}"]
    path = target.with_name(f"{target.name}.csv")
    order = ["seed", "iteration"]
    frame = frame[list(CURVE_COLUMNS)].sort_values(order, kind="stable")
    records.write_bytes(path, frame.to_csv(index=False, float_format="%.6f").encode())
    records.write_json(target.with_name(f"{target.name}.json"), {"runs": _runs(cells)})
    return [f"{path}: {_counted(len(frame), 'score of an image', 'scores of images')}"]


def _runs(cells: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """The processes that worked on cells, in the order in which they started, with the cells of each."""
    runs: dict[tuple, dict[str, Any]] = {}
    for config, environment in cells:
        for process in (*environment.get("earlier", ()), environment):
            key = str(process.get("started")), str(process.get("command"))
            told = {name: process.get(name) for name in (*TRAINED_ON, "command", "started")}
            worked_on = runs.setdefault(key, {**told, "cells": []})["cells"]
            if config not in worked_on:  # stopped and taken up within the second that `started` tells
                worked_on.append(config)
    return [runs[key] for key in sorted(runs)]
