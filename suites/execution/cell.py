"""A cell's folder as it stands: what is done, what is missing, what it has cost. Light: an engine with nothing to do
imports no PyTorch."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from results import records
from results.store import Store, StoreError
from suites.evaluation import ways
from suites.spec import Cell, Scoring


def finished(store: Store, folder: Path) -> bool:
    """Whether the cell is done, with all that belongs to it readable."""
    try:
        done = store.status(folder)["state"] == "done"
        return done and len(records.read_frame(folder / "scores.parquet")) > 0
    except StoreError:
        return False


def missing(store: Store, folder: Path) -> dict[str, tuple[int, int]]:
    """Datasets of a finished cell of which it has not scored every image: (images scored, images expected)."""
    expected = store.status(folder).get("expected") or {}
    counts = records.read_frame(folder / "scores.parquet")["dataset"].value_counts()
    have = {name: int(counts.get(name, 0)) for name in expected}
    return {name: (have[name], count) for name, count in expected.items() if have[name] < count}


def complete(store: Store, folder: Path, cell: Cell, scoring: Scoring) -> bool:
    """Whether the cell is done, with scores of all images and in all ways whose weights were kept."""
    return finished(store, folder) and not missing(store, folder) and not list(ways.to_score(folder, cell, scoring))


def training_cost(folder: Path) -> dict[str, Any]:
    """Steps and seconds of training, over all processes that worked on the cell, from the last line of its log."""
    try:
        last = json.loads((folder / "train.jsonl").read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return {"train_steps": last["step"], "train_seconds": last["seconds"], "peak_mib": last.get("peak_mib")}


def scored(folder: Path, dataset: str) -> set[str]:
    """The images (stems) of `dataset` that the cell's table holds."""
    path = folder / "scores.parquet"
    if not path.exists():
        return set()
    rows = records.read_frame(path)
    return set(rows.loc[rows["dataset"] == dataset, "image"])


class Environment:
    """environment.json of a cell: this process, and under `earlier` those that worked on it before it."""

    def __init__(self, folder: Path, machine: Mapping[str, Any]) -> None:
        self._path, self._content = folder / "environment.json", dict(machine)
        set_aside_unreadable(self._path, records.read_json)
        if self._path.exists():
            before = records.read_json(self._path)
            self._content["earlier"] = [*before.pop("earlier", []), before]
        self.add()

    def add(self, **measured: Any) -> None:
        self._content |= measured
        records.write_json(self._path, self._content)


def set_aside_unreadable(path: Path, read: Callable[[Path], Any]) -> None:
    """A damaged file makes room for a new one and is kept beside it."""
    try:
        read(path)
    except StoreError:
        if path.exists():
            with records.guarded(path):
                path.replace(path.with_name(f"{path.name}.corrupt"))
