"""What the report shows: everything that a store holds and that is committed, judged. It runs no network."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from reports import claims
from reports.claims import Judged
from reports.tables import index
from reports.tables.blocks.block import Block, Cell
from reports.tables.blocks.wording import number
from reports.tables.rows import machine_text, made_by, protocol_text
from results import records
from results.analyses import folder
from results.costs import lines
from results.evidence import Evidence
from results.store import Store, StoreError

Told = Callable[[str, int, int, str], object]  # of a step, how many of how many are made, and which is next


def untold(step: str, done: int, total: int, name: str) -> None:
    """Where nobody wants to know how far a report is."""


@dataclass(frozen=True)
class Contents:
    """What the report shows, whatever its form. origin: in a sentence, which of it is the store's and which committed.

    claims: of the paper; beside: what it leaves unsaid; questions: that it asks itself. frames: every table. protocols,
    machines: short names of those in `cells` and `evaluations`, the blocks of the store. told: of what is
    made of it.
    """

    evidence: Evidence
    origin: str
    claims: list[Judged]
    beside: list[Judged]
    questions: list[Judged]
    frames: dict[str, pd.DataFrame]
    states: str
    cells: Block | None
    evaluations: Block | None
    failures: list[str]
    protocols: list[tuple[str, str]] = field(default_factory=list)
    machines: list[tuple[str, str]] = field(default_factory=list)
    told: Told = untold


def gather(store: Store, told: Told = untold) -> Contents:
    """Everything that is stored and committed, judged."""
    evidence, cells, evaluations = Evidence(store), store.cells(), store.evaluations()
    protocols, machines = _Numbered("P"), _Numbered("M")
    sections = claims.load()
    told("tables", 0, 1, "")
    frames = index.tables(evidence)
    told("tables", 1, 1, "")
    return Contents(
        evidence=evidence,
        origin=_origin(evidence, cells, evaluations),
        claims=claims.judge(evidence, sections["claims"]),
        beside=claims.judge(evidence, sections["beside"]),
        questions=claims.judge(evidence, sections["questions"]),
        frames=frames,
        states=", ".join(f"{n} {state}" for state, n in sorted(Counter(cells["state"].fillna("damaged")).items())),
        cells=_cell_block(cells, store, protocols, machines) if len(cells) else None,
        evaluations=_evaluation_block(evaluations, store, protocols, machines) if len(evaluations) else None,
        failures=_failures(cells, evidence),
        protocols=protocols.items(),
        machines=machines.items(),
        told=told,
    )


def _origin(evidence: Evidence, cells: pd.DataFrame, evaluations: pd.DataFrame) -> str:
    both = (evidence.cells, evidence.evaluations)
    committed = [int(frame["committed"].astype(bool).sum()) for frame in both]
    shown = f"{committed[1]} records of scores and {committed[0]} trained cells committed with this project"
    counts = {
        ("record of scores", "records of scores"): len(evaluations),
        ("cell", "cells"): len(cells),
        ("analysis", "analyses"): len(folder.folders(evidence.store.root)),
        ("sweep of costs", "sweeps of costs"): len(lines.files(evidence.store.root)),
    }
    if not any(counts.values()):
        return f"The store is empty: all that is shown are {shown}. `python runner.py run smoke` fills it."
    told = " and ".join(f"{count} {one if count == 1 else more}" for (one, more), count in counts.items() if count)
    return f"Shown of this store: {told}; beside it {shown}. Every number says which of the two it is."


class _Numbered:
    """Texts, each with a short name in the order of their first use."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._names = prefix, {}

    def name(self, text: str) -> str:
        return self._names.setdefault(text, f"{self._prefix}{len(self._names) + 1}")

    def items(self) -> list[tuple[str, str]]:
        return [(name, text) for text, name in self._names.items()]


def _cell_block(cells: pd.DataFrame, store: Store, protocols: _Numbered, machines: _Numbered) -> Block:
    header = ("cell", "hash", "state", "budget", "iterations", "training", "protocol", "machine")
    rows = []
    for row in cells.sort_values(["task", "variant", "seed", "hash"], na_position="last").to_dict("records"):
        seconds = row["train_seconds"]
        texts = (row["name"] or "?", row["hash"], row["state"] or "damaged", row["budget"] or "")
        texts += (str(row["iterations"] or ""), f"{seconds:.0f} s" if seconds else "")
        texts += (protocols.name(protocol_text(row["protocol"])) if row["protocol"] else "",)
        rows.append([*map(Cell, texts), Cell(_machine(store.root / row["hash"], machines))])
    return Block("", header, rows, left=(0, 1, 2, 3, 6, 7))


def _evaluation_block(evaluations: pd.DataFrame, store: Store, protocols: _Numbered, machines: _Numbered) -> Block:
    header = ("model", "weights", "task", "dataset", "images", "PSNR", "SSIM", "protocol", "machine")
    rows = []
    good = evaluations[evaluations["problem"].isna()]
    good = good.assign(seed=[protocol["seed"] for protocol in good["protocol"]])
    for row in good.sort_values(["model", "task", "dataset", "weights", "seed", "hash"]).to_dict("records"):
        folder = store.root / "evaluations" / row["hash"]
        texts = (row["model"], row["weights"][:8], row["task"], row["dataset"], row["coverage"] or "0 images")
        source = f"{machine_text([row])}; {made_by([row])}; {protocol_text(row['protocol'])}"
        scores = [Cell(number(row[name], name), source=source) for name in ("psnr", "ssim")]
        names = (protocols.name(protocol_text(row["protocol"])), _machine(folder, machines))
        rows.append([*map(Cell, texts), *scores, *map(Cell, names)])
    return Block("", header, rows, left=(0, 1, 2, 3, 7, 8))


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
