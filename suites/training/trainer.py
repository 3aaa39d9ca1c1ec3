"""The trainer: cells of one process, one or several at a time, each killable at any moment.

Weights and logs of a cell are the same bits whether it trains alone or with others, in one go or stopped and started
again (on a CPU, or with the same kernels on a GPU). Several cells share a GPU through a stream each, so that kernels of
one fill what those of another leave idle. The host is at most `LONGEST` steps ahead of the device: it waits only where
something is logged, kept or shown.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from results import records
from suites.data.pool import Pool
from suites.data.sampling import prefetch
from suites.spec import Cell
from suites.training import checkpoints
from suites.training.processes import ALONE, Processes
from suites.training.state import (
    Run,
    begin,
    check_identity,
    hash_images,
    identify,
    log_every,
    pool_of,
    semantics_of,
    trained_as,
)
from suites.training.step import TrainingError, determinism

LONGEST = 50  # steps that the host may be ahead of the device: how soon a time limit is noticed
WEIGHTS = "weights.safetensors"

Images = Callable[[tuple[str, ...]], Sequence[np.ndarray]]
Marks = Callable[[Cell], Collection[int]]


@dataclass(frozen=True)
class Hooks:
    """What a caller does on the way; each is called with the run (or runs) that it is about.

    on_step: after every iteration, on the cell's stream: the device may still be at work, so nothing is read.
    on_mark: at the iterations that `marks` names, everything read, before the checkpoint or the final weights.
    on_sync: whenever the host has waited for the device, with all runs at work and those that have just ended.
    on_failure: a cell cannot go on (its loss went wrong, or it could not begin) and leaves. None: the error is raised.
    """

    on_step: Callable[[Run], None] | None = None
    on_mark: Callable[[Run], None] | None = None
    on_sync: Callable[[list[Run]], None] | None = None
    on_failure: Callable[[Cell, TrainingError], None] | None = None


def no_marks(cell: Cell) -> Collection[int]:
    return ()


def train_cells(
    cells: Iterable[tuple[Cell, Path]],
    images: Images,
    *,
    width: int = 1,
    until: float = math.inf,
    marks: Marks = no_marks,
    hooks: Hooks = Hooks(),
    device: str | torch.device = "cpu",
    backend: str = "auto",
    deterministic: bool = True,
    compiled: bool = False,
    own: Path | None = None,
    processes: Processes = ALONE,
) -> bool:
    """Trains every cell in its folder, at most `width` at a time. Returns whether all that did not fail are trained.

    A folder where a cell was started before is taken up at its last checkpoint, and a finished one is left as it is. It
    gets weights.safetensors, train.jsonl with a line every `log_every` steps (step, lr, loss: mean since the last
    line, seconds, images_per_second, peak_mib), and checkpoint.pt until the end. `seconds` of a cell among others is
    its share: all shares add up to what the device was busy.

    images: the pictures of training sets by their names, uint8 [H, W, 3]. until: time.monotonic() at which all cells
    at work are checkpointed and False is returned. marks: iterations of a cell at which `hooks.on_mark` is called.
    compiled: MambaIRv2's layers run as torch.compile makes them; the first step waits for it. On a GPU whose scan is in
    kernels a step is one CUDA graph (suites.training.cuda_graph), which changes no bit of it; not for networks that
    draw at random in training (MambaIR's stochastic depth), nor for classes of a user's file, which is `own`.
    processes: those that train each cell together, all of which call this with the same cells and marks, one cell at a
    time; hooks other than the first one's may do nothing.

    Raises TrainingError (bad images, a foreign checkpoint, a loss that is not finite or diverges) unless
    `hooks.on_failure` takes it, ModelError for what the catalogue cannot build, StoreError when a folder cannot be
    written.
    """
    device = torch.device(device)
    with determinism(deterministic, compiled), torch.cuda.device(device if device.type == "cuda" else -1):
        return _Loop(images, width, until, marks, hooks, device, backend, compiled, own, processes).work(deque(cells))


@dataclass
class _Active:
    """A cell at work."""

    run: Run
    pool: Pool
    fetched: Iterator[dict[str, torch.Tensor]]
    stream: torch.cuda.Stream | None
    marks: frozenset[int]

    @property
    def due(self) -> bool:
        """Whether this is a step after which the host waits for the device."""
        step, budget = self.run.step, self.run.budget
        intervals = LONGEST, log_every(budget), budget.checkpoint_every
        return step in self.marks or step == budget.iterations or any(step % every == 0 for every in intervals)


@dataclass
class _Loop:
    images: Images
    width: int
    until: float
    marks: Marks
    hooks: Hooks
    device: torch.device
    backend: str
    compiled: bool
    own: Path | None
    processes: Processes

    def __post_init__(self) -> None:
        self.active: list[_Active] = []
        self.ended: list[Run] = []  # since the last call of on_sync
        self.since = 0.0
        self.decoded: dict[tuple[str, ...], tuple[Sequence[np.ndarray], str]] = {}  # with their hash
        self.pools: dict[tuple, Pool] = {}  # cells of other seeds and batches share the pictures

    def work(self, waiting: deque[tuple[Cell, Path]]) -> bool:
        try:
            while True:
                while waiting and len(self.active) < self.width:
                    self._settle()
                    self._begin(*waiting.popleft())
                if not self.active:
                    self._show()
                    return True
                self._advance()
                if not any(one.due for one in self.active):
                    continue
                self._settle()
                for one in [one for one in self.active if one.due and not self._attend(one)]:
                    self._leave(one)
                self._show()
                if (self.active or waiting) and self.processes.agreed(lambda: time.monotonic() >= self.until):
                    self._stop()
                    return False
        finally:
            for one in list(self.active):
                self._leave(one)

    def _begin(self, cell: Cell, folder: Path) -> None:
        try:
            self._join(cell, folder)
        except TrainingError as error:
            self._fail(cell, error)
        self._wait()  # what was laid down by the default stream, for which a cell's own would not wait
        self.since = time.monotonic()

    def _join(self, cell: Cell, folder: Path) -> None:
        if cell.train_sets not in self.decoded:
            images = self.images(cell.train_sets)
            self.decoded[cell.train_sets] = images, hash_images(images)
        images, digest = self.decoded[cell.train_sets]
        identity = identify(cell, digest)
        if self.processes.agreed(lambda: self._trained(folder, identity)):
            return
        run = begin(cell, identity, folder, self.device, self.backend, self.compiled, self.own, self.processes)
        marks = frozenset(self.marks(cell))
        if run.step == run.budget.iterations:  # killed between its last checkpoint and its final weights
            self._end(run, marks)
            return
        key = cell.train_sets, cell.task, run.budget.patch, semantics_of(run)
        if key not in self.pools:
            self.pools[key] = pool_of(run, images)
        pool = self.pools[key].sharing(cell.seed, run.budget.batch)
        fetched = prefetch(pool.fetch, range(run.step + 1, run.budget.iterations + 1))
        own = self.device.type == "cuda" and self.width > 1
        stream = torch.cuda.Stream(self.device) if own else None
        self.active.append(_Active(run, pool, fetched, stream, marks))

    @staticmethod
    def _trained(folder: Path, identity: dict[str, str]) -> bool:
        """Whether the cell's final weights are there; the folder is made where they are not."""
        if (folder / WEIGHTS).exists() and (made := trained_as(folder / WEIGHTS)) is not None:
            check_identity(made, identity, folder)
            checkpoints.discard(folder)
            return True
        with records.guarded(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return False

    def _leave(self, one: _Active) -> None:
        one.fetched.close()
        self.active.remove(one)

    def _fail(self, cell: Cell, error: TrainingError) -> None:
        if self.hooks.on_failure is None:
            raise error
        self.hooks.on_failure(cell, error)

    def _advance(self) -> None:
        for one in list(self.active):
            fetched = next(one.fetched)
            try:
                with torch.cuda.stream(one.stream):
                    one.run.advance(one.pool.batch(fetched))
                    if self.hooks.on_step:
                        self.hooks.on_step(one.run)
            except TrainingError as error:
                self._fail(one.run.cell, error)
                self._leave(one)

    def _settle(self) -> None:
        """Waits for the device, and shares the time since the last wait among the cells."""
        self._wait()
        now = time.monotonic()
        for one in self.active:
            one.run.seconds += (now - self.since) / len(self.active)
        self.since = now

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _attend(self, one: _Active) -> bool:
        """Reads, logs and keeps what the cell has done since the last wait. Returns whether it goes on."""
        run = one.run
        try:
            run.read()
            last = run.step == run.budget.iterations
            if run.step % log_every(run.budget) == 0 or last:
                run.write_line()
            if last:
                self._end(run, one.marks)
                return False
            if run.step in one.marks and self.hooks.on_mark:
                self.hooks.on_mark(run)
            if run.step in one.marks or run.step % run.budget.checkpoint_every == 0:
                run.save()
        except TrainingError as error:
            self._fail(run.cell, error)
            return False
        return True

    def _end(self, run: Run, marks: Collection[int]) -> None:
        if run.step in marks and self.hooks.on_mark:
            self.hooks.on_mark(run)
        run.finish()
        self.ended.append(run)

    def _show(self) -> None:
        runs = [*self.ended, *(one.run for one in self.active)]
        self.ended.clear()
        if self.hooks.on_sync and runs:
            self.hooks.on_sync(runs)

    def _stop(self) -> None:
        """Checkpoints of all cells at work; those whose loss went wrong since the last wait are told last."""
        wrong = []
        for one in self.active:
            try:
                one.run.read()
                one.run.save()
            except TrainingError as error:
                wrong.append((one.run.cell, error))
        for cell, error in wrong:
            self._fail(cell, error)
