"""What is measured of cells: trained where they stand, scored in every way that their suite asks for, and filed."""

import math
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch

import models
from models.ops.scan import resolve
from results import records
from suites import environment
from suites.data import find_all, load_training
from suites.evaluation import ways
from suites.evaluation.ways import Way
from suites.execution.cell import CellAtWork, Environment, Options, incomplete_sets, set_aside_unreadable, training_cost
from suites.execution.scoring_pool import ScoringPool
from suites.spec import Cell
from suites.training import averaging, trainer
from suites.training.processes import Processes
from suites.training.state import Run
from suites.training.step import TrainingError


def train_and_score(cells: Sequence[CellAtWork], options: Options) -> None:
    """Trains `cells`, as many at a time as `options` says, scores and files them. Raises what none could survive.

    With scorers, weights are scored as soon as they are kept; else by this process after the training.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    # What cannot end well is said before the long part.
    find_all(sorted({name for each in cells for name in each.cell.test_sets}), options.data)
    with ScoringPool(options.scorers) if options.scorers else nullcontext() as pool:
        work = _Work(cells, options, pool)
        work.train()
        work.score()
    work.settle()


def train_with_the_first(options: Options) -> None:
    """What every process but the first does where several train a cell: its part of all steps."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = own_device(options)
    with Processes.joined(options.processes, device, options.sums) as processes:
        cells = processes.agreed(list)
        _train(cells, options, device, processes, math.inf, trainer.Hooks(on_failure=lambda *_: None))


def own_device(options: Options) -> torch.device:
    """The GPU of this process among those that it sees, where several train a cell."""
    own = options.processes > 1 and options.device != "cpu"
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if own else torch.device(options.device)


def _train(
    cells: Sequence[tuple[Cell, Path]],
    options: Options,
    device: torch.device,
    processes: Processes,
    until: float,
    hooks: trainer.Hooks,
) -> None:
    trainer.train_cells(
        cells,
        lambda names: load_training(names, options.data),
        width=options.concurrent,
        until=until,
        marks=lambda cell: set(options.scoring.weights(cell.budget).values()),
        hooks=hooks,
        device=device,
        backend=options.backend,
        deterministic=options.deterministic,
        own=options.own,
        processes=processes,
    )


class _Work:
    def __init__(self, cells: Sequence[CellAtWork], options: Options, pool: ScoringPool | None) -> None:
        self.cells = {each.cell.name: each for each in cells}
        self.options, self.scoring, self.pool = options, options.scoring, pool
        self.until = time.monotonic() + options.until - time.time()
        self.failed: dict[tuple[str, Way], BaseException] = {}  # all but the cells' own scores
        device = torch.device(options.device)
        facts = environment.describe(device, resolve(options.backend, device))
        facts |= {"deterministic": options.deterministic, "command": options.command, "started": records.now()}
        if options.concurrent > 1 or options.scorers:
            facts |= {"abreast": options.concurrent, "scorers": options.scorers}  # as the store calls them
        if options.processes > 1:
            facts |= {"processes": options.processes, "sums": options.sums}
        self.noisy, self.environments = {}, {}
        for each in cells:
            network = ways.scored_network(each.cell, options.backend, options.own)
            self.noisy[each.cell.name] = ways.draws_noise(network, each.cell)
            if not each.finished or incomplete_sets(each.store, each.folder):
                set_aside_unreadable(each.folder / "scores.parquet", records.read_frame)
                used = facts if each.cell.variant.source is None else {**facts, "backend": "none"}
                self.environments[each.cell.name] = Environment(each.folder, used)

    def train(self) -> None:
        hooks = trainer.Hooks(averaging.add if self.scoring.average else None, self._keep, self._look, self._fail)
        device = own_device(self.options)
        with Processes.joined(self.options.processes, device, self.options.sums) as processes:
            todo = [(each.cell, each.folder) for each in self.cells.values() if not each.finished]
            cells = processes.agreed(lambda: todo)
            _train(cells, self.options, device, processes, self.until, hooks)

    def _keep(self, run: Run) -> None:
        for name, iteration in self.scoring.weights(run.budget).items():
            if iteration == run.step:
                path = ways.weights_path(run.folder, name)
                averaging.write(run, path) if name == "average" else run.keep(path)

    def _look(self, runs: list[Run]) -> None:
        for run in runs:
            known = {} if run.loss is None else {"loss": run.loss}
            each = self.cells[run.cell.name]
            each.tell("train", step=run.step, iterations=run.budget.iterations, **known)
            self._submit(each)
        self._collect(self.pool.results() if self.pool else ())

    def _fail(self, cell: Cell, error: TrainingError) -> None:
        self.cells[cell.name].fail(error)

    def score(self) -> None:
        """Everything that is left, as far as there is time; what has begun is brought to its end."""
        for each in self.cells.values():
            if self.pool:
                self._submit(each)
                continue
            while (left := self._left(each)) and time.monotonic() < self.until:
                begun = time.perf_counter()
                try:
                    rows = ways.score_way(*self._call(each, left[0]), progress=_Progress(each, left[0]))
                except Exception as error:
                    self._file(each, left[0], error)
                else:
                    self._file(each, left[0], rows, time.perf_counter() - begun)
        if self.pool:
            self._collect(self.pool.results(self.until))
            self._collect(self.pool.last())

    def settle(self) -> None:
        """Says of every cell that is not through why it is not."""
        for name, each in self.cells.items():
            if each.status is None:
                wrong = [(way, error) for (cell, way), error in self.failed.items() if cell == name]
                if wrong:
                    each.fail(_named(*wrong[0]))
                elif not each.finished or self._left(each):
                    each.stop()

    def _left(self, each: CellAtWork) -> list[Way]:
        """What could be scored now and has not failed."""
        if each.status is not None:
            return []
        due = not each.finished or (
            bool(incomplete_sets(each.store, each.folder)) and each.cell.name in self.environments
        )
        found = ways.to_score(each.folder, each.cell, self.scoring, due, self.noisy[each.cell.name])
        return [way for way in found if (each.cell.name, way) not in self.failed]

    def _call(self, each: CellAtWork, way: Way) -> tuple:
        options = self.options
        machine = ways.Machine(options.device, options.data, options.backend, options.deterministic, options.own)
        return each.store.root, each.cell, way, self.scoring, machine

    def _submit(self, each: CellAtWork) -> None:
        for way in self._left(each) if self.pool else ():
            self.pool.submit((each.cell.name, way), ways.score_way, *self._call(each, way))

    def _collect(self, results: Iterable[tuple[tuple[str, Way], Future]]) -> None:
        for (name, way), future in results:
            error = future.exception()
            self._file(self.cells[name], way, future.result() if error is None else error)

    def _file(
        self, each: CellAtWork, way: Way, result: pd.DataFrame | BaseException, seconds: float | None = None
    ) -> None:
        """result: the rows of a way, or why there are none. seconds: that it took, where that is known."""
        own = way == ways.own(each.cell)
        if isinstance(result, BaseException):
            if own or isinstance(result, records.WriteError):
                each.fail(result)
            self.failed[each.cell.name, way] = result
            return
        if own and (record := self.environments.pop(each.cell.name, None)) is not None:
            spent = float(result["seconds"].sum()) if seconds is None else seconds
            record.add(**training_cost(each.folder), evaluate_seconds=round(spent, 3), finished=records.now())
            expected = {dataset.name: len(dataset) for dataset in find_all(each.cell.test_sets, self.options.data)}
            weights = models.weights_hash(ways.weights_path(each.folder, way.weights))
            each.finish(weights=weights, expected=expected)
        if len(ways.ways(each.cell, self.scoring)) > 1:
            means = result.groupby("dataset", sort=False)["psnr"].mean()
            told = "  ".join(f"{dataset} {value:.3f} dB" for dataset, value in means.items())
            each.tell("scored", text=f"{way}: {told}")


class _Progress:
    """Tells the engine of every image scored."""

    def __init__(self, each: CellAtWork, way: Way) -> None:
        self.each, self.way = each, way

    def __call__(self, dataset: str, done: int, total: int, stem: str) -> None:
        self.each.tell("evaluate", dataset=dataset, done=done, total=total)


def _named(way: Way, error: BaseException) -> BaseException:
    """The error with the way in its message and its traceback, of a kind that is treated alike."""
    try:
        named = type(error)(f"{way}: {error}")
    except Exception:  # a class with other arguments
        named = RuntimeError(f"{way}: {type(error).__name__}: {error}")
    named.__cause__ = error.__cause__  # where it was raised, if in a process that scores
    return named.with_traceback(error.__traceback__)
