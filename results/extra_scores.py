"""Scores of a cell's other weights, and under other seeds of the routing noise, as a suite's `Scoring` asks for them.

Beside scores.parquet (the last weights under the protocol's seed) a cell's folder may hold
scores-<half|average|last>-<seed>.parquet, scores-<iteration>.parquet (under the protocol's seed) and
scores-<iteration>-<seed>.parquet. `export` commits them: `<name>.csv.xz` with COLUMNS, or, where `name` begins with
"curve", `<name>.csv` with CURVE_COLUMNS and `<name>.json` that says on what and how the cells were trained.
"""

import lzma
import re
from pathlib import Path
from typing import Any

import pandas as pd

from results import records
from results.export import place
from results.store import Store

FILE = re.compile(r"scores-(half|average|last|\d+)(?:-(\d+))?\.parquet")
COLUMNS = ("hash", "weights", "gumbel", "dataset", "image", "psnr", "ssim", "seconds")
CURVE_COLUMNS = ("seed", "iteration", "dataset", "image", "psnr", "ssim")
TRAINED_ON = ("device", "device_type", "backend", "threads", "system", "python", "versions", "commit")


def found(folder: Path, seed: int) -> dict[tuple[str, int], Path]:
    """(weights, seed of the noise) -> file, its own table among them; nothing where there is no other.

    weights: "last", "half", "average", or an iteration. seed: the protocol's.
    """
    files = {}
    for path in sorted(folder.glob("scores-*.parquet")):
        if match := FILE.fullmatch(path.name):
            files[match[1], int(match[2] or seed)] = path
    return {("last", seed): folder / "scores.parquet", **files} if files else {}


def export(store: Store, name: str) -> list[str]:
    """Commits the scores of the finished cells of `store` that have others than their own, if any.

    name: MACHINE/NAME under results/measured. `seconds` is a share of the time: what restoring took over the number of
    processes that did so at a time. Returns what was written, in words.
    """
    target, tables, cells = place(name), [], []
    for folder in store.cell_folders():
        if store.status(folder)["state"] != "done":
            continue
        config, environment = store.read_config(folder), records.read_json(folder / "environment.json")
        files = found(folder, config["protocol"]["seed"])
        if files:
            cells.append((config, environment))
        for (weights, seed), path in files.items():
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
        return [f"{path}: {len(frame)} scores of images"]
    path = target.with_name(f"{target.name}.csv")
    order = ["seed", "iteration"]
    frame = frame[list(CURVE_COLUMNS)].sort_values(order, kind="stable")
    records.write_bytes(path, frame.to_csv(index=False, float_format="%.6f").encode())
    records.write_json(target.with_name(f"{target.name}.json"), {"runs": _runs(cells)})
    return [f"{path}: {len(frame)} scores of images"]


def _runs(cells: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """The processes that worked on cells, in the order in which they started, with the cells of each."""
    runs: dict[tuple, dict[str, Any]] = {}
    for config, environment in cells:
        for process in (*environment.get("earlier", ()), environment):
            key = str(process.get("started")), str(process.get("command"))
            told = {name: process.get(name) for name in (*TRAINED_ON, "command", "started")}
            runs.setdefault(key, {**told, "cells": []})["cells"].append(config)
    return [runs[key] for key in sorted(runs)]
