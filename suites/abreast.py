"""Cells trained side by side in one process, and calls made by other processes meanwhile.

On a GPU every cell has a stream of its own, so that the kernels of one fill what those of another leave free. Weights
and logs are, bit for bit, those of cells trained one by one (`suites.training.train`), at whatever iterations the
others stand. `train_seconds` of such a cell is its share of the time: all shares add up to what the device was busy.
"""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from results import records
from suites.data.training import load_training
from suites.pool import Pool
from suites.progress import duration
from suites.sampling import prefetch
from suites.spec import Cell
from suites.training import Run, TrainingError, begin, identify, log_every, pool_of, semantics_of

LONGEST = 50  # steps that the host may be ahead of the device: how soon a time limit is noticed


@dataclass
class Lane:
    """A cell at work among others."""

    run: Run
    pool: Pool
    fetched: Iterator[dict[str, torch.Tensor]]
    stream: torch.cuda.Stream | None
    marks: frozenset[int]
    loss: float | None = None  # mean over the last line of the log

    @property
    def total(self) -> int:
        return self.run.budget.iterations

    @property
    def due(self) -> bool:
        """Whether this is a step after which the host looks at what the device has done."""
        step, every = self.run.step, min(LONGEST, log_every(self.run.budget))
        return not (step % every and step % self.run.budget.checkpoint_every) or step in self.marks


class Abreast:
    """Trains cells, several at a time, each from where its folder says that it stands.

    A subclass says what happens on the way, by the methods below that do nothing here. data: folder of datasets.
    """

    def __init__(self, device: str | torch.device, data: Path | None = None, backend: str = "auto") -> None:
        self.device, self.data, self.backend = torch.device(device), data, backend
        self.lanes: list[Lane] = []
        self.steps, self.seconds = 0, 0.0  # of all cells, in this process
        self._since = 0.0
        self._images: dict[tuple[str, ...], list[np.ndarray]] = {}
        self._pools: dict[tuple, Pool] = {}  # cells of other seeds and batches share the pictures

    # What a subclass decides

    def begins(self, cell: Cell) -> bool:
        """Whether this cell may be taken up now; if not, it is left as it is."""
        return True

    def marks(self, cell: Cell) -> Collection[int]:
        """Iterations, beside the last, after which `marked` is called."""
        return ()

    def joined(self, run: Run) -> None:
        """Called when a cell is taken up, before its first iteration here."""

    def stepped(self, run: Run) -> None:
        """Called after every iteration, on the cell's stream: the device may still be at work."""

    def marked(self, run: Run) -> None:
        """Called at marks and after the last iteration, with everything done and read. Keeps what is worth keeping."""

    def watched(self) -> None:
        """Called whenever the host has looked at the device."""

    def failed(self, run: Run, error: TrainingError) -> None:
        """A loss went wrong: its cell leaves, the others go on if this returns."""
        raise error

    # The work

    def train(self, cells: Iterable[tuple[Cell, Path]], width: int, until: float) -> bool:
        """Trains cells in their folders, at most `width` at a time, as long as time.monotonic() is below `until`.

        Returns whether all are trained; the others have checkpoints at the iteration where they stopped, if they were
        begun. Raises what `suites.training.train` does.
        """
        waiting, left = deque(cells), False
        try:
            while True:
                while waiting and len(self.lanes) < width:
                    cell, folder = waiting.popleft()
                    if self.begins(cell):
                        self._settle()
                        self._join(cell, folder)
                    else:
                        left = True
                if not self.lanes:
                    return not left
                self._advance()
                if not any(lane.due for lane in self.lanes):
                    continue
                self._settle()
                ended = [lane for lane in self.lanes if lane.due and not self._attend(lane)]
                self.watched()
                for lane in ended:
                    self._leave(lane)
                if self.lanes and time.monotonic() >= until:
                    self._stop()
                    return False
        finally:
            for lane in list(self.lanes):
                self._leave(lane)

    def _stop(self) -> None:
        """Checkpoints of all cells; those whose loss went wrong since the last look come last."""
        wrong = []
        for lane in self.lanes:
            try:
                lane.run.read()
                lane.run.save()
            except TrainingError as error:
                wrong.append((lane.run, error))
        for run, error in wrong:
            self.failed(run, error)

    def line(self) -> str:
        """Where every cell stands, and the share of time that a step takes."""
        cells = (
            f"{lane.run.cell.name} {lane.run.step}/{lane.total}{'' if lane.loss is None else f' {lane.loss:.5f}'}"
            for lane in self.lanes
        )
        pace = self.seconds / max(self.steps, 1)
        left = sum(lane.total - lane.run.step for lane in self.lanes) * pace
        return "  ".join([*cells, f"{pace * 1e3:.1f} ms a step", f"{duration(left)} left for these"])

    def _join(self, cell: Cell, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if cell.train_sets not in self._images:
            self._images[cell.train_sets] = load_training(cell.train_sets, self.data)
        images = self._images[cell.train_sets]
        run = begin(cell, identify(cell, images), folder, self.device, self.backend)
        self.joined(run)
        if run.step < run.budget.iterations:
            key = cell.train_sets, cell.task, run.budget.patch, semantics_of(run)
            if key not in self._pools:
                self._pools[key] = pool_of(run, images)
            pool = self._pools[key].sharing(cell.seed, run.budget.batch)
            fetched = prefetch(pool.fetch, range(run.step + 1, run.budget.iterations + 1))
            stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
            marks = frozenset((*self.marks(cell), run.budget.iterations))
            self.lanes.append(Lane(run, pool, fetched, stream, marks))
        else:
            self.marked(run)  # it was cut off between its last checkpoint and what comes then
        self._wait()  # what was laid down by the default stream, for which the cell's own would not wait
        self._since = time.monotonic()

    def _leave(self, lane: Lane) -> None:
        lane.fetched.close()
        self.lanes.remove(lane)

    def _advance(self) -> None:
        for lane in self.lanes:
            fetched = next(lane.fetched)
            with torch.cuda.stream(lane.stream):
                lane.run.advance(lane.pool.batch(fetched))
                self.stepped(lane.run)
        self.steps += len(self.lanes)

    def _settle(self) -> None:
        """Waits for the device, and shares the time since the last look among the cells."""
        self._wait()
        now = time.monotonic()
        if self.lanes:
            self.seconds += now - self._since
            for lane in self.lanes:
                lane.run.seconds += (now - self._since) / len(self.lanes)
        self._since = now

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _attend(self, lane: Lane) -> bool:
        """Reads, logs and keeps what the cell has done since the last look. Returns whether it goes on."""
        run = lane.run
        try:
            run.read()
            if run.step % log_every(run.budget) == 0 or run.step == lane.total:
                lane.loss, _ = run.write_line()
            if run.step in lane.marks:
                self.marked(run)
            elif run.step % run.budget.checkpoint_every == 0:
                run.save()
        except TrainingError as error:
            self.failed(run, error)
            return False
        return run.step < lane.total


def keep_weights(run: Run, path: Path) -> None:
    """The weights as they are now, in a file of their own."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in run.model.state_dict().items()}
    records.write_bytes(path, safetensors.torch.save(tensors))


class Beside(AbstractContextManager):
    """Calls made by `processes` other processes, each under a name. Leaving the context drops those not begun.

    A process has one thread: more would wait for each other, and keep cores from the training.
    """

    def __init__(self, processes: int) -> None:
        fresh = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(processes, fresh, torch.set_num_threads, (1,))
        self._pending: dict[Hashable, Future] = {}

    def submit(self, name: Hashable, function: Callable[..., Any], *arguments: Any) -> None:
        """Does nothing for a name that is pending."""
        if name not in self._pending:
            self._pending[name] = self._executor.submit(function, *arguments)

    def results(self, until: float | None = None) -> Iterator[tuple[Hashable, Future]]:
        """Names and futures of what is done; with `until` (time.monotonic()) also of what will be done by then."""
        while self._pending:
            ready = [name for name, future in self._pending.items() if future.done()]
            for name in ready:
                yield name, self._pending.pop(name)
            if not ready:
                rest = None if until is None else until - time.monotonic()
                if rest is None or rest <= 0:
                    return
                timeout = None if rest == float("inf") else rest
                wait(self._pending.values(), timeout=timeout, return_when=FIRST_COMPLETED)

    def last(self) -> Iterator[tuple[Hashable, Future]]:
        """The same of what has begun; the rest is dropped."""
        for name in [name for name, future in self._pending.items() if future.cancel()]:
            del self._pending[name]
        yield from self.results(float("inf"))

    def __exit__(self, *_: Any) -> None:
        self._executor.shutdown(cancel_futures=True)
