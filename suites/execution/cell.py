"""A cell's folder as it stands (what is done, what is missing, what it has cost), and a cell that a process works on.

Nothing here needs PyTorch: an engine with nothing to do does not wait for it.
"""

import json
import math
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results import records
from results.store import Store, StoreError
from suites.evaluation import ways
from suites.spec import SUMS, Cell, Scoring, SpecError

# Exit status. REFUSED: it would say the same again. UNWRITABLE: so would every other cell of this store. STOPPED: the
# time was up, and the same command continues.
DONE, CRASHED, REFUSED, BUSY, UNWRITABLE, STOPPED = range(6)
SEVEREST = (UNWRITABLE, CRASHED, REFUSED, STOPPED, BUSY, DONE)  # first
STATUS_S = 30  # how often status.json gets the step
REFUSALS = (
    ("models", "ModelError"),
    ("models.ops.scan", "BackendError"),
    ("suites.data", "DataError"),
    ("suites.evaluation.evaluate", "EvaluationError"),
    ("suites.evaluation.metrics", "MetricError"),
    ("suites.training.step", "TrainingError"),
)


def finished(store: Store, folder: Path) -> bool:
    """Whether the cell is done, with all that belongs to it readable."""
    try:
        done = store.status(folder)["state"] == "done"
        return done and len(records.read_frame(folder / "scores.parquet")) > 0
    except StoreError:
        return False


def incomplete_sets(store: Store, folder: Path) -> dict[str, tuple[int, int]]:
    """Datasets of a finished cell of which it has not scored every image: (images scored, images expected)."""
    expected = store.status(folder).get("expected") or {}
    counts = records.read_frame(folder / "scores.parquet")["dataset"].value_counts()
    have = {name: int(counts.get(name, 0)) for name in expected}
    return {name: (have[name], count) for name, count in expected.items() if have[name] < count}


def complete(store: Store, folder: Path, cell: Cell, scoring: Scoring) -> bool:
    """Whether the cell is done, with scores of all images and in all ways whose weights were kept."""
    return (
        finished(store, folder)
        and not incomplete_sets(store, folder)
        and not list(ways.to_score(folder, cell, scoring))
    )


def training_cost(folder: Path) -> dict[str, Any]:
    """Steps and seconds of training, over all processes that worked on the cell, from the last line of its log."""
    try:
        last = json.loads((folder / "train.jsonl").read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return {"train_steps": last["step"], "train_seconds": last["seconds"], "peak_mib": last.get("peak_mib")}


def scored_images(folder: Path, dataset: str) -> set[str]:
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
            records.set_aside(path)


# At work


@dataclass(frozen=True)
class Options:
    """How this machine runs cells: none of it is part of a cell's identity, all of it is recorded.

    concurrent: cells trained at a time. scorers: processes that score meanwhile; without any, this one scores after
    training. processes: that train a cell together, and how their gradients are summed (suites.training.processes).
    until: seconds since the epoch at which cells stop where they stand. scoring: what the suite scores of
    them in addition to their last weights. own: the file of variants that are a class in one.
    """

    device: str
    data: Path | None
    backend: str
    deterministic: bool
    threads: int | None
    command: str
    concurrent: int = 1
    scorers: int = 0
    processes: int = 1
    sums: str = SUMS[0]
    until: float = math.inf
    scoring: Scoring = field(default_factory=Scoring)
    own: Path | None = None


class Notes(list[str]):
    """The warnings of this process, once each: for the engine as they come, for environment.json at the end."""

    def __init__(self, report: "Report") -> None:
        super().__init__()
        self._report, self._show = report, warnings.showwarning
        warnings.showwarning = self._see

    def _see(self, message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        self._show(message, category, *where, **more)
        text = " ".join(str(message).split())
        if text not in self and not issubclass(category, (DeprecationWarning, FutureWarning)):
            self.append(text)
            self._report("note", text=text)

    def file(self, folder: Path) -> None:
        """Adds them to the cell's environment.json, where there is one."""
        path = folder / "environment.json"
        if self and path.exists():
            records.write_json(path, records.read_json(path) | {"notes": list(self)})


Report = Callable[..., None]  # report(event, **details)


@dataclass
class CellAtWork:
    """A cell whose lock this process holds, from any state of its folder to done, failed or stopped.

    step: of its training. status: once it has ended, one of the exit statuses.
    """

    cell: Cell
    folder: Path
    store: Store
    report: Report
    notes: Notes
    step: int = 0
    status: int | None = None
    _written: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> bool:
        return finished(self.store, self.folder)

    def begin(self) -> None:
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        if not self.finished:
            self.step = training_cost(self.folder).get("train_steps", 0)
            self.store.write_status(self.folder, "running", step=self.step)

    def tell(self, event: str, **details: Any) -> None:
        """An event of this cell, for the engine; the step reaches status.json now and then."""
        self.step = details.get("step", self.step)
        if time.monotonic() - self._written > STATUS_S and not self.finished:
            self.store.write_status(self.folder, "running", step=self.step)
            self._written = time.monotonic()
        self.report(event, cell=self.cell.name, **details)

    def finish(self, **outcome: Any) -> None:
        """Files that it is done. outcome: the hash of the `weights`, the images `expected` in each test set."""
        self.notes.file(self.folder)
        self.store.write_status(self.folder, "done", step=self.cell.budget.iterations, **outcome)

    def end(self) -> None:
        self.status = DONE
        self.tell("done")

    def stop(self) -> None:
        """Time is up."""
        if not self.finished:
            reason = f"stopped at step {self.step}; it will continue"
            self.store.write_status(self.folder, "planned", reason=reason, step=self.step)
        self.status = STOPPED
        self.tell("stopped")

    def fail(self, error: BaseException) -> None:
        """A cell that is done stays so: then what went wrong is another score than its own."""
        refused = refuses(error)
        reason = str(error) if refused else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())
        if type(error).__name__ == "OutOfMemoryError" and each_part(self.cell) > 1:
            reason += f" (--set accumulate={2 * self.cell.budget.accumulate} trains on half as much at a time)"
        traceback.print_exception(error)
        self.status = UNWRITABLE if isinstance(error, records.WriteError) else REFUSED if refused else CRASHED
        self.report("failed", cell=self.cell.name, reason=reason, final=refused)
        if self.finished:
            return
        with suppress(StoreError):
            self.notes.file(self.folder)
        where = {"step": self.step} | getattr(error, "record", {})  # of a TrainingError: the step, and its loss
        with suppress(records.WriteError):
            self.store.write_status(self.folder, "failed", reason=reason, **where)


def each_part(cell: Cell) -> int:
    """Samples that a network is given at a time."""
    return cell.budget.batch // cell.budget.accumulate


def refuses(error: BaseException) -> bool:
    """Whether it names the user's mistake or a final finding (a loss that diverged): again, it would say the same."""
    if isinstance(error, (SpecError, StoreError)):
        return True
    loaded = [(sys.modules.get(module), name) for module, name in REFUSALS]  # what raised one of these is loaded
    return any(isinstance(error, getattr(module, name)) for module, name in loaded if module is not None)
