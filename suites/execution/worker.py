"""The process of one or several cells. The engine starts it as `python -m suites.execution.engine`.

It holds the cells' locks while it works, keeps their status.json true at every moment, and reports on its standard
output in JSON lines, each with the name of its cell; everything else that prints goes to stderr. Whatever kills it, the
folders stay consistent: files appear whole, and `done` is written last. What is measured is `suites.execution.work`.
"""

import argparse
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results import locks, records
from results.store import Store, StoreError
from suites.execution.cell import complete, finished, training_cost
from suites.spec import Cell, Scoring, SpecError

# Exit status. REFUSED: it would say the same again. UNWRITABLE: so would every other cell of this store. STOPPED: the
# time was up, and the same command continues.
DONE, CRASHED, REFUSED, BUSY, UNWRITABLE, STOPPED = range(6)
SEVEREST = (UNWRITABLE, CRASHED, REFUSED, STOPPED, BUSY, DONE)  # first
ALIVE_S = 5  # how often a silent process shows that it lives, and learns that its engine is gone
STATUS_S = 30  # how often status.json gets the step
REFUSALS = (
    ("models", "ModelError"),
    ("models.ops.scan", "BackendError"),
    ("suites.data", "DataError"),
    ("suites.evaluation.evaluate", "EvaluationError"),
    ("suites.evaluation.metrics", "MetricError"),
    ("suites.training.step", "TrainingError"),
)


@dataclass(frozen=True)
class Options:
    """How this machine runs cells: none of it is part of a cell's identity, all of it is recorded.

    concurrent: cells trained at a time. scorers: processes that score meanwhile; without any, this one scores after
    training. until: seconds since the epoch at which cells stop where they stand. scoring: what the suite scores of
    them beside their last weights.
    """

    device: str
    data: Path | None
    backend: str
    deterministic: bool
    threads: int | None
    command: str
    concurrent: int = 1
    scorers: int = 0
    until: float = math.inf
    scoring: Scoring = field(default_factory=Scoring)


class Reporter:
    """Writes events to the engine; ends the process when nobody reads them any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock = descriptor, threading.Lock()

    def __call__(self, event: str, **details: Any) -> None:
        line = (json.dumps({"event": event, **details}) + "\n").encode()
        with self._lock:
            try:
                os.write(self._descriptor, line)
            except BrokenPipeError:
                os._exit(CRASHED)  # the engine was killed: nothing is lost, and the next one finds a dead lock

    def keep_alive(self) -> None:
        def beat() -> None:
            while True:
                time.sleep(ALIVE_S)
                self("alive")

        threading.Thread(target=beat, name="alive", daemon=True).start()


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
        """A cell that is done stays so: then what went wrong is a score beside its own."""
        refused = refuses(error)
        reason = str(error) if refused else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())
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


Work = Callable[[Sequence[CellAtWork], Options], None]


def main(arguments: list[str] | None = None, work: Work | None = None) -> int:
    """Runs the cells of config.json files. `work` does what is measured (default: `suites.execution.work`). It calls
    `finish` of every cell that is done, `fail` and `stop` of others; what it raises fails all that have not ended."""
    parser = argparse.ArgumentParser(prog="python -m suites.execution.engine", description="Runs cells.")
    parser.add_argument("configs", type=Path, nargs="+", metavar="CONFIG")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--command", default="")
    parser.add_argument("--concurrent", type=int, default=1)
    parser.add_argument("--scorers", type=int, default=0)
    parser.add_argument("--until", type=float, default=math.inf)
    parser.add_argument("--scoring", type=read_scoring, default=Scoring())
    given = vars(parser.parse_args(arguments))
    configs, results = given.pop("configs"), given.pop("results")
    options = Options(**given)

    report = Reporter(os.dup(1))
    os.dup2(2, 1)  # a library that prints must not break the engine's lines
    notes = Notes(report)
    report.keep_alive()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    statuses: list[int] = []
    with ExitStack() as locked:
        cells = []
        for path in configs:
            name = ""  # before its configuration is read
            try:
                store = Store(results)
                cell = Cell.from_config(records.read_json(path))
                name, folder = cell.name, store.open_cell(cell.config())
                locked.enter_context(locks.hold(folder))
                cells.append(CellAtWork(cell, folder, store, report, notes))
            except locks.LockedError as error:
                report("busy", cell=name, reason=str(error))
                statuses.append(BUSY)
            except (SpecError, StoreError) as error:
                report("failed", cell=name, reason=str(error), final=True)
                statuses.append(UNWRITABLE if isinstance(error, records.WriteError) else REFUSED)
        _run(cells, options, work or _train_and_score)
        statuses += [cell.status for cell in cells if cell.status is not None]
    return next(status for status in SEVEREST if status in statuses)


def read_scoring(text: str) -> Scoring:
    """The inverse of json.dumps(dataclasses.asdict(scoring))."""
    found = json.loads(text)
    return Scoring(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


def _train_and_score(cells: Sequence[CellAtWork], options: Options) -> None:
    from suites.execution import work  # and PyTorch

    work.train_and_score(cells, options)


def _run(cells: Sequence[CellAtWork], options: Options, work: Work) -> None:
    """With the locks held. Afterwards every cell has a status."""
    todo = []
    for each in cells:
        if complete(each.store, each.folder, each.cell, options.scoring):  # by another engine, since ours looked
            each.end()
        else:
            todo.append(each)
    try:
        for each in todo:
            each.begin()
        if todo:
            work(todo, options)
        for each in todo:
            if each.status is None:
                each.end()
    except Exception as error:
        for each in todo:
            if each.status is None:
                each.fail(error)


def refuses(error: BaseException) -> bool:
    """Whether it names the user's mistake or a final finding (a loss that diverged): again, it would say the same."""
    if isinstance(error, (SpecError, StoreError)):
        return True
    loaded = [(sys.modules.get(module), name) for module, name in REFUSALS]  # what raised one of these is loaded
    return any(isinstance(error, getattr(module, name)) for module, name in loaded if module is not None)
