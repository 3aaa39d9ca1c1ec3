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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from results import locks, records
from results.store import Store, StoreError
from suites.execution.cell import (
    BUSY,
    CRASHED,
    DONE,
    REFUSED,
    SEVEREST,
    UNWRITABLE,
    CellAtWork,
    Notes,
    Options,
    complete,
)
from suites.spec import SUMS, Cell, Scoring, SpecError

ALIVE_S = 5  # how often a silent process shows that it lives, and learns that its engine is gone
ORPHAN_S = 0.5  # how often a process looks whether torchrun lives: sooner than its cell is started again


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


def end_with_parent() -> None:
    """Ends this process soon after torchrun, which could not end it if it was killed itself."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_S)
        os._exit(CRASHED)

    threading.Thread(target=watch, name="parent", daemon=True).start()


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
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sums", choices=SUMS, default=SUMS[0])
    parser.add_argument("--until", type=float, default=math.inf)
    parser.add_argument("--scoring", type=read_scoring, default=Scoring())
    parser.add_argument("--own", type=Path)
    parser.add_argument("--degradation", type=Path)
    given = vars(parser.parse_args(arguments))
    configs, results, degradation = (given.pop(name) for name in ("configs", "results", "degradation"))
    options = Options(**given)
    if options.processes > 1:
        end_with_parent()
        if os.environ["RANK"] != "0":
            from suites.execution import work as measured

            measured.train_with_the_first(options)
            return DONE

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
                cell = replace(cell, task=replace(cell.task, file=degradation))
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
    status = next(status for status in SEVEREST if status in statuses)
    report("ends", status=status)
    return status


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
        if todo or options.processes > 1:  # the others wait to be told what there is
            work(todo, options)
        for each in todo:
            if each.status is None:
                each.end()
    except Exception as error:
        if not todo:
            raise
        for each in todo:
            if each.status is None:
                each.fail(error)
