"""Cells of any suite, several at a time on one GPU, scored on the way by processes beside the training.

    python -m suites.concurrent ablations STORE --data DATA --budget reduced-bf16 --marks 1500,3000,4500 [--seconds S]

Cells are taken seed by seed. Finished cells lie in STORE like any others; beside its scores a
cell's folder keeps scores-<iteration>.parquet for every mark, of the pictures of --way. STORE/pace.jsonl says how long
steps took beside how many others. With --warm the kernels are compiled first (suites.warmup). Stopped by --seconds or
anything else, the same command goes on where all cells stand.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pandas as pd

import models
from models.scan import resolve
from results import locks, records
from results.store import Store
from suites import environment, recipes, warmup, worker
from suites.abreast import Abreast, Beside, keep_weights
from suites.commandline import add_data, guard
from suites.data import find
from suites.evaluation import evaluate
from suites.preflight import check_cells, check_data
from suites.progress import counted
from suites.spec import Cell, Suite
from suites.training import Run, TrainingError, determinism

LAST = "weights.safetensors"
PACE = "pace.jsonl"


def score(cell: Cell, weights: Path, sets: Sequence[str], data: Path | None, device: str) -> pd.DataFrame:
    """The rows of the test sets named, with these weights under the cell's protocol."""
    with determinism(True):
        model = worker.scored_network(cell, "auto")
        models.load_weights(model, weights)
        model.to(device).eval()
        options = {"device": device, "labels": cell.variant.labels}
        frames = [evaluate(model, cell.task, find(name, data), cell.protocol, **options) for name in sets]
        return pd.concat(frames, ignore_index=True)


def marked_weights(folder: Path, iteration: int) -> Path:
    return folder / f"weights-{iteration}.safetensors"


def marked_scores(folder: Path, iteration: int) -> Path:
    return folder / f"scores-{iteration}.parquet"


def seed_by_seed(cells: Sequence[Cell]) -> list[Cell]:
    """What is cut off leaves whole comparisons."""
    return sorted(cells, key=lambda cell: cell.seed)


def chosen(name: str, budget: str | None, seeds: str | None, only: str | None) -> Suite:
    """As `recipes.choose`; `only` may hold several globs with commas between. Raises as it does."""
    suite = recipes.choose(name, budget=budget, seeds=seeds)
    if only is None:
        return suite
    fitting = {cell for glob in only.split(",") for cell in map(_named, recipes.select(suite, glob).cells)}
    return replace(suite, cells=tuple(cell for cell in suite.cells if _named(cell) in fitting))


def _named(cell: Cell) -> str:
    return cell.name


class Concurrent(Abreast):
    """The cells of `suite` that `store` has not finished, trained, scored and filed.

    marks: iterations whose weights are scored on the way, on the sets `way` (of the cell's own where it is empty).
    begin_for: seconds after the start of `follow` for which cells may be begun.
    """

    def __init__(
        self,
        suite: Suite,
        store: Store,
        data: Path | None,
        device: str,
        *,
        width: int,
        scorers: int,
        marks: Sequence[int] = (),
        way: Sequence[str] = (),
        begin_for: float = math.inf,
        command: str = "",
    ) -> None:
        super().__init__(device, data)
        self.store, self.width, self.processes, self.begin_for = store, width, scorers, begin_for
        self.cells = {cell.name: cell for cell in seed_by_seed(suite.cells)}
        self.folders = {name: store.cell_folder(cell.config()) for name, cell in self.cells.items()}
        self.iterations, self.way = tuple(marks), tuple(way)
        self.machine = environment.describe(device, resolve(self.backend, self.device))
        self.machine |= {"deterministic": True, "command": command, "started": records.now()}
        self.machine |= {"abreast": width, "scorers": scorers}
        self.environments: dict[str, worker.Environment] = {}  # of cells that are not done
        self.lost: dict[str, str] = {}  # cells that cannot be trained or scored, and why
        self.notes = worker.Notes(lambda event, **details: None)

    def follow(self, seconds: float) -> bool:
        """Works until all is done or for so long (and as much longer as calls take that have begun).

        Returns whether all is done. Raises StoreError when the store cannot be written.
        """
        now = time.monotonic()
        until, self.closes = now + seconds, now + self.begin_for
        with ExitStack() as locked, Beside(self.processes) as self.scorers:
            ours = [name for name in self.cells if self._take(name, locked)]
            untrained = [name for name in ours if not (self.folders[name] / LAST).exists()]
            self.train([(self.cells[name], self.folders[name]) for name in untrained], self.width, until)
            self.collect(self.scorers.results(until))
            self.collect(self.scorers.last())
        return not self.rest()

    def rest(self) -> list[str]:
        """Names of the cells that are not done, nor lost."""
        return [
            name for name in self.cells if name not in self.lost and not worker.finished(self.store, self.folders[name])
        ]

    def _begun(self, name: str) -> bool:
        return any(self.folders[name].glob("checkpoint*.pt"))

    def _take(self, name: str, locked: ExitStack) -> bool:
        """Whether there is work on a cell for us; it is locked then."""
        folder, cell = self.folders[name], self.cells[name]
        if worker.finished(self.store, folder):
            return False
        if (status := self.store.status(folder))["state"] == "failed":
            self.lost[name] = f"{status['reason']}; delete {folder} to train it anew"
            print(f"{name}: {self.lost[name]}", flush=True)
            return False
        try:
            self.store.open_cell(cell.config())
            locked.enter_context(locks.hold(folder))
        except locks.LockedError as error:
            print(f"{name}: {error}", flush=True)
            return False
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        worker.set_aside_unreadable(folder / "scores.parquet", records.read_frame)
        if (folder / LAST).exists() or self._begun(name):
            self._record(name)
            self.submit(name)
        return True

    def _record(self, name: str) -> None:
        """environment.json of a cell that we work on; nothing for one that was not begun."""
        if name not in self.environments:
            self.environments[name] = worker.Environment(self.folders[name], self.machine)

    # On the way

    def begins(self, cell: Cell) -> bool:
        return self._begun(cell.name) or time.monotonic() < self.closes

    def marks(self, cell: Cell) -> Sequence[int]:
        return self.iterations

    def joined(self, run: Run) -> None:
        self._record(run.cell.name)
        self.store.write_status(self.folders[run.cell.name], "running", step=run.step)

    def marked(self, run: Run) -> None:
        folder = self.folders[run.cell.name]
        if run.step == run.budget.iterations:
            run.finish()
        else:
            if not marked_scores(folder, run.step).exists():
                keep_weights(run, marked_weights(folder, run.step))
            run.save()
        self.submit(run.cell.name)

    def watched(self) -> None:
        self.collect(self.scorers.results())
        if not self.lanes:
            return
        pace = {"time": records.now(), "lanes": len(self.lanes), "steps": self.steps, "seconds": round(self.seconds, 3)}
        with records.guarded(self.store.root), open(self.store.root / PACE, "a") as log:
            log.write(json.dumps(pace | {"cells": {lane.run.cell.name: lane.run.step for lane in self.lanes}}) + "\n")
        if any(lane.run.step % 500 == 0 for lane in self.lanes):
            print(self.line(), flush=True)

    def failed(self, run: Run, error: TrainingError) -> None:
        self.store.write_status(self.folders[run.cell.name], "failed", reason=str(error), **error.record)
        self.lost[run.cell.name] = str(error)
        print(f"{run.cell.name}: {error}", flush=True)

    # Scores

    def submit(self, name: str) -> None:
        """Asks for every score of the cell that is missing and whose weights are there, that of the last ones first."""
        cell, folder = self.cells[name], self.folders[name]
        if (folder / LAST).exists() and name in self.environments:
            self.scorers.submit((name, None), score, cell, folder / LAST, cell.test_sets, self.data, str(self.device))
        for iteration in self.iterations:
            weights = marked_weights(folder, iteration)
            if weights.exists():
                sets = self.way or cell.test_sets
                self.scorers.submit((name, iteration), score, cell, weights, sets, self.data, str(self.device))

    def collect(self, results: Iterator) -> None:
        for (name, iteration), future in results:
            if (error := future.exception()) is not None:
                reason = f"{type(error).__name__}: {error}"
                print(f"{name}, {iteration or 'last'}: {reason}", flush=True)
                if iteration is None:
                    self.lost[name] = reason
                continue
            frame, folder = future.result(), self.folders[name]
            if iteration is None:
                self._finish(name, frame)
            else:
                records.write_frame(marked_scores(folder, iteration), frame)
                marked_weights(folder, iteration).unlink(missing_ok=True)
            means = frame.groupby("dataset", sort=False)["psnr"].mean()
            told = "  ".join(f"{dataset} {value:.3f} dB" for dataset, value in means.items())
            print(f"{name}, {iteration or 'last'}: {told}", flush=True)

    def _finish(self, name: str, frame: pd.DataFrame) -> None:
        """Files the scores of the last weights, and with them the cell."""
        cell, folder, record = self.cells[name], self.folders[name], self.environments.pop(name)
        self.store.write_scores(folder, frame)
        spent = round(float(frame["seconds"].sum()), 3)
        record.add(**worker.training_cost(folder), evaluate_seconds=spent, finished=records.now())
        self.notes.file(folder)
        expected = {dataset.name: len(dataset) for dataset in (find(each, self.data) for each in cell.test_sets)}
        weights = models.weights_hash(folder / LAST)
        self.store.write_status(folder, "done", step=cell.budget.iterations, weights=weights, expected=expected)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m suites.concurrent", description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("store", type=Path)
    add_data(parser)
    parser.add_argument("--budget")
    parser.add_argument("--seeds", help="0,1,2")
    parser.add_argument("--only", help="globs of cell names with commas between: 'base/*,plain-scan/*'")
    parser.add_argument("--abreast", type=int, default=4, help="cells trained at a time")
    parser.add_argument("--scorers", type=int, default=4, help="processes that score")
    parser.add_argument("--marks", default="", help="iterations that are scored on the way: 1500,3000,4500")
    parser.add_argument("--way", default="", help="sets that are scored on the way; a cell's own when none is named")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long; go on another time")
    parser.add_argument(
        "--begin-for", type=float, default=math.inf, help="after so many seconds begin no cell, only go on"
    )
    parser.add_argument("--warm", type=int, default=0, help="processes that compile kernels first")
    parser.add_argument("--device")
    options = parser.parse_args()
    store, device = Store(options.store), environment.choose_device(options.device)
    suite = chosen(options.suite, options.budget, options.seeds, options.only)
    marks, way = (
        recipes.parse_seeds(options.marks) if options.marks else (),
        tuple(filter(None, options.way.split(","))),
    )
    check_data(suite.cells, options.data)
    check_cells(suite.cells, "auto", device)
    for family in suite.compared():
        store.add_family(suite.name, family.name, family.base.config(), [(l, c.config()) for l, c in family.members])
    if options.warm:
        print(*warmup.warm(suite.cells, options.warm), sep="\n", flush=True)
    with determinism(True):
        work = Concurrent(
            *(suite, store, options.data, device),
            width=options.abreast,
            scorers=options.scorers,
            marks=marks,
            way=way,
            begin_for=options.begin_for,
            command=environment.command(),
        )
        done = work.follow(options.seconds)
    rest = len(work.rest())
    state = (
        "all is done" if done and not work.lost else f"{counted(rest, 'cell')} to be continued, {len(work.lost)} lost"
    )
    print(f"{state}: {work.steps} steps in {work.seconds:.0f} s")
    return int(bool(work.lost))


if __name__ == "__main__":
    sys.exit(guard(main))
