"""The report: one Markdown page of all that a store holds, and of the tables that it and what is committed fill.

A pure function of them: the same store, the same bytes.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from reports.tables import index, render
from reports.tables.blocks import Cell, number
from reports.tables.rows import protocol_text
from results import records
from results.evidence import Evidence
from results.store import Store, StoreError

TEMPLATES = Path(__file__).parent / "templates"


def write(store: Store) -> Path:
    """Writes the report into the store's folder, as report.md. Raises StoreError when that cannot be written."""
    path = store.root / "report.md"
    records.write_bytes(path, markdown(store).encode())
    return path


def markdown(store: Store) -> str:
    """The report: failures, tables with something measured, cells, evaluation records, protocols, machines."""
    cells, evaluations = store.cells(), store.evaluations()
    protocols, machines = _Numbered("P"), _Numbered("M")
    evidence = Evidence(store)
    frames = {name: index.table(name, evidence) for name in index.names(evidence)}
    scored = {name: part for name, frame in frames.items() if len(part := _scored_tasks(frame))}
    context = {
        "cells": _cell_grid(cells, store, protocols, machines) if len(cells) else "",
        "states": ", ".join(f"{n} {state}" for state, n in sorted(Counter(cells["state"].fillna("damaged")).items())),
        "evaluations": evaluations.to_dict("records"),
        "evaluation_grid": _evaluation_grid(evaluations, store, protocols, machines),
        "failures": _failures(cells, evidence),
        "tables": [render.markdown(frame, index.caption(name)).rstrip() for name, frame in scored.items()],
        "without": [name for name in frames if name not in scored],
        "protocols": protocols.items(),
        "machines": machines.items(),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # it is Markdown
    )
    return environment.get_template("report.md.j2").render(context)


class _Numbered:
    """Texts, each with a short name in the order of their first use."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._names = prefix, {}

    def name(self, text: str) -> str:
        return self._names.setdefault(text, f"{self._prefix}{len(self._names) + 1}")

    def items(self) -> list[tuple[str, str]]:
        return [(name, text) for text, name in self._names.items()]


def _scored_tasks(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of those tasks for which a score was measured."""
    scored = frame["measured"].notna() & frame["metric"].isin(("psnr", "ssim"))
    return frame[frame["task"].isin(frame[scored]["task"])]


def _cell_grid(cells: pd.DataFrame, store: Store, protocols: _Numbered, machines: _Numbered) -> str:
    header = ("cell", "hash", "state", "budget", "iterations", "training", "protocol", "machine")
    rows = []
    for row in cells.sort_values(["task", "variant", "seed", "hash"], na_position="last").to_dict("records"):
        seconds = row["train_seconds"]
        texts = (row["name"] or "?", row["hash"], row["state"] or "damaged", row["budget"] or "")
        texts += (str(row["iterations"] or ""), f"{seconds:.0f} s" if seconds else "")
        texts += (protocols.name(protocol_text(row["protocol"])) if row["protocol"] else "",)
        rows.append([*map(Cell, texts), Cell(_machine(store.root / row["hash"], machines))])
    return render.grid(header, rows, left=(0, 1, 2, 3, 6, 7))


def _evaluation_grid(evaluations: pd.DataFrame, store: Store, protocols: _Numbered, machines: _Numbered) -> str:
    header = ("model", "weights", "task", "dataset", "images", "PSNR", "SSIM", "protocol", "machine")
    rows = []
    good = evaluations[evaluations["problem"].isna()]
    good = good.assign(seed=[protocol["seed"] for protocol in good["protocol"]])
    for row in good.sort_values(["model", "task", "dataset", "weights", "seed", "hash"]).to_dict("records"):
        folder = store.root / "evaluations" / row["hash"]
        texts = (row["model"], row["weights"][:8], row["task"], row["dataset"], row["coverage"] or "0 images")
        texts += (number(row["psnr"], "psnr"), number(row["ssim"], "ssim"))
        texts += (protocols.name(protocol_text(row["protocol"])), _machine(folder, machines))
        rows.append([Cell(text) for text in texts])
    return render.grid(header, rows, left=(0, 1, 2, 3, 7, 8))


def _machine(folder: Path, machines: _Numbered) -> str:
    """Names of the machines that filled a cell or record; empty when that was not stored, or cannot be read."""
    try:
        stored = records.read_json(folder / "environment.json")
    except StoreError:
        return ""
    environments = [stored] if "device" in stored else list(stored.values())  # a cell has one, a record one per merge
    return ", ".join(dict.fromkeys(machines.name(_environment_text(one)) for one in environments))


def _environment_text(environment: Mapping[str, Any]) -> str:
    parts = [f"{environment.get('device')}, backend {environment.get('backend')}"]
    parts += [f"{environment.get('threads')} threads", str(environment.get("system"))]
    parts += [f"Python {environment.get('python')}"]
    parts += [f"{name} {version}" for name, version in (environment.get("versions") or {}).items() if version]
    return ", ".join([*parts, f"commit {environment.get('commit') or 'unknown'}"])


def _failures(cells: pd.DataFrame, evidence: Evidence) -> list[str]:
    failed = [
        f"cell {_named(row)}: {row['reason'] or 'failed'}"
        for row in cells.to_dict("records")
        if row["state"] == "failed"
    ]
    return [" ".join(line.split()) for line in [*failed, *index.problems(evidence)]]


def _named(row: Mapping[str, Any]) -> str:
    """A cell by its name and hash; by its hash alone when its configuration cannot be read."""
    return f"{row['name']} ({row['hash']})" if row["name"] else row["hash"]
