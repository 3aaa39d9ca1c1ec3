"""From a suite to stored results: skip what is done, run every other cell in a process of its own, or several cells at
a time in one process, never one twice.

A cell is trained, scored and only then marked done (`suites.execution.worker`); its folder's lock keeps other engines
off. A cell whose process dies is tried once more, from its last checkpoint, and otherwise reported, while the others go
on. `python -m suites.execution.engine CELL.json ... --results DIR` is that process."""

import json
import math
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from results import locks
from results.store import Store, StoreError
from suites import environment
from suites.execution import launchers, worker
from suites.execution.cell import UNWRITABLE, finished
from suites.execution.launchers import EngineError, Job, Launcher, LocalLauncher, stop_all
from suites.execution.plan import Planned, not_kept, plan, stands, unfinished, unscored_images
from suites.interruption import interruptible
from suites.progress import Display, duration
from suites.spec import SUMS, Cell, Scoring, Suite, check_choice

__all__ = ["EngineError", "Outcome", "Planned", "plan", "run"]

PROGRAM = (sys.executable, "-m", "suites.execution.engine")
POLL_S = 0.1
HUNG_S = 6 * 3600.0  # no step and no image takes so long
TAIL_LINES = 30


@dataclass
class Outcome:
    """What a run did, by cell name; `failed` and `busy` give the reason."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # finished before
    failed: dict[str, str] = field(default_factory=dict)
    busy: dict[str, str] = field(default_factory=dict)  # another engine works on it
    partial: dict[str, str] = field(default_factory=dict)  # done, but some test images, or kept weights, are not there
    stopped: dict[str, str] = field(default_factory=dict)  # the time was up
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.failed

    def lines(self) -> list[str]:
        counts = [(self.done, "done"), (self.skipped, "done before"), (self.failed, "failed"), (self.busy, "elsewhere")]
        counts.append((self.stopped, "stopped, which the same command continues,"))
        summary = ", ".join(f"{len(cells)} {word}" for cells, word in counts if cells) or "no cells"
        told = {**self.failed, **self.busy, **self.stopped, **self.partial}
        reasons = [f"{name}: {reason}" for name, reason in told.items()]
        return [f"{summary} in {duration(self.seconds)}", *reasons]


def dealt(cells: Sequence[Cell], count: int) -> list[list[Cell]]:
    """`count` groups in turn, every second round backwards: variants that come again seed by seed, some of which take
    longer, then do not always fall to the same group."""
    groups: list[list[Cell]] = [[] for _ in range(count)]
    for position, cell in enumerate(cells):
        turn, place = divmod(position, count)
        groups[place if turn % 2 == 0 else count - 1 - place].append(cell)
    return groups


@dataclass
class _Running:
    """A process and its cells by name. ends: the last word of each cell: a "done", "failed", "busy" or "stopped".
    status: its exit status as it said itself, which torchrun would hide. heard: when it last told of work. end: why it
    was ended."""

    cells: dict[str, Cell]
    job: Job
    slot: int
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: int | None = None
    heard: float = field(default_factory=time.monotonic)
    end: str | None = None
    shown: dict[str, bool] = field(default_factory=dict)


def run(
    suite: Suite,
    store: Store,
    *,
    device: str = "cpu",
    data: Path | None = None,
    backend: str = "auto",
    deterministic: bool = False,
    jobs: int | None = None,
    gpus: int | None = None,
    threads: int | None = None,
    launch: str = "local",
    cluster: str | None = None,
    concurrent: int = 1,
    scorers: int = 0,
    seconds: float = math.inf,
    warm: int = 0,
    init: Path | None = None,
    own: Path | None = None,
    processes: int = 1,
    sums: str = SUMS[0],
    hung: float = HUNG_S,
    console: Console | None = None,
    command: str | None = None,
    program: Sequence[str] = PROGRAM,
) -> Outcome:
    """Brings every cell of `suite` to done, or says why not.

    Cells are taken seed by seed, so that what is cut off leaves whole comparisons.

    jobs: cells at a time (default: one per GPU; on a CPU one per core at the smoke budget, else one). gpus: spread
    them over this many GPUs. threads: per process (default: the cores divided by jobs; one at the smoke budget).
    hung: seconds without a step or an image after which a process is ended, and its cells tried again.
    processes: that train one cell together, on a GPU each; sums: how their gradients are summed, "in-order" (the same
    bits as by one process) or "all-reduce" (suites.training.processes).
    concurrent: cells that one process trains at a time; with more than one the cells are dealt out to `jobs` processes.
    scorers: processes for each of them that score while it trains. seconds: time after which all cells stop at a
    checkpoint; the same call continues. warm: processes that compile the GPU's kernels before anything trains.
    init: file of the weights that the suite's cells start from, if they do; the store keeps a copy. own: the file of
    variants that are a class in one; the store keeps its hash alone.
    deterministic: the same bits on one machine; on a CPU in any case. launch: "local" or "submitit"; cluster: see
    SubmititLauncher. command: what environment.json gives as the command (default: this process's). program: what runs
    cells.

    Ctrl-C and SIGTERM stop the cells, leave the store consistent and raise KeyboardInterrupt; the next run continues.
    Raises EngineError, DataError or what `suites.execution.preflight` does before anything starts, StoreError when the
    store cannot be written (then too the other cells are stopped, and continue in the next run)."""
    if concurrent < 1 or scorers < 0 or not seconds > 0:
        told = f"--concurrent {concurrent}, --scorers {scorers}, --seconds {seconds:g}"
        raise EngineError(f"{told}: at least 1 cell, no negative number of processes and a positive time are needed")
    check_choice("way to sum gradients", sums, SUMS)
    if processes > 1 and concurrent > 1:
        raise EngineError("--processes-per-cell spreads one cell over GPUs, and --concurrent shares one among cells")
    begun, until = time.monotonic(), time.time() + seconds
    outcome = Outcome()
    todo: list[Planned] = []
    for planned in plan(suite, store):
        if planned.state == "done" and not unfinished(planned, store, data, suite.scoring):
            store.open_cell(planned.cell.config())  # a damaged config.json is written anew
            outcome.skipped.append(planned.cell.name)
            if reason := planned.reason or not_kept(planned.cell, store, suite.scoring):
                outcome.partial[planned.cell.name] = reason
        elif planned.state == "running":
            holder = locks.holder(store.cell_folder(planned.cell.config()))
            outcome.busy[planned.cell.name] = f"is running already: {holder}"
        else:
            todo.append(planned)
    todo.sort(key=lambda planned: planned.cell.seed)
    if todo:
        from suites.execution import preflight  # and torch: an engine with nothing to do need not wait for it

        preflight.check_data([planned.cell for planned in todo], data)
        preflight.check_initial([planned.cell for planned in todo], init)
        preflight.check_processes([planned.cell for planned in todo], processes)
        if concurrent > 1 and jobs is None:
            jobs = gpus or 1
        tiny = all(planned.cell.budget.name == "smoke" for planned in todo)
        launcher = launchers.choose(
            launch, store.root, len(todo), tiny, device, jobs, gpus, threads, cluster, processes
        )
        # The nodes of a cluster are other machines than this one.
        place = "meta" if launch == "submitit" else device
        preflight.check_cells([planned.cell for planned in todo], backend, place, own)
        if warm:
            from suites.execution import warmup

            (console or Console()).print(*warmup.warm([planned.cell for planned in todo], warm, device), sep="\n")
        if init is not None:
            from suites.training import initial

            initial.keep(store.root, init)
    for family in suite.compared():
        members = [(label, cell.config()) for label, cell in family.members]
        store.add_family(suite.name, family.name, family.base.config(), members)
    if todo:
        folders = {planned.cell.name: store.open_cell(planned.cell.config()) for planned in todo}
        options = _arguments(store, device, data, backend, deterministic, launcher, command)
        options += [] if own is None else ["--own", str(own.absolute())]
        file = next((planned.cell.task.file for planned in todo), None)  # cells of one run have one function
        options += [] if file is None else ["--degradation", str(file.absolute())]
        options += _concurrency(concurrent, scorers, until, suite.scoring) + (["--sums", sums] if processes > 1 else [])
        shown, limits = console or Console(), (until, hung)
        engine = _Engine(store, launcher, list(program), options, outcome, shown, suite.scoring, *limits)
        engine.work(todo, folders, concurrent)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _arguments(
    store: Store,
    device: str,
    data: Path | None,
    backend: str,
    deterministic: bool,
    launcher: Launcher,
    command: str | None,
) -> list[str]:
    if isinstance(launcher, LocalLauncher) and launcher.gpus:
        device = "cuda"  # each process sees its own GPU only
    arguments = ["--results", str(store.root), "--device", device, "--backend", backend]
    if data is not None:
        arguments += ["--data", str(Path(data).absolute())]
    if deterministic or device == "cpu":  # there it costs nothing worth a choice
        arguments.append("--deterministic")
    return [*arguments, f"--command={environment.command() if command is None else command}"]


def _concurrency(concurrent: int, scorers: int, until: float, scoring: Scoring) -> list[str]:
    """What is left out is what one cell alone, without scores beside its own and without a limit, needs not say."""
    arguments = [] if concurrent == 1 else ["--concurrent", str(concurrent)]
    arguments += ["--scorers", str(scorers)] if scorers else []
    arguments += ["--until", f"{until:.3f}"] if until < math.inf else []
    return arguments + (["--scoring", json.dumps(asdict(scoring))] if scoring != Scoring() else [])


class _Engine:
    """One run: a queue of groups of cells, a process for each, as many at work as the launcher takes."""

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        program: list[str],
        arguments: list[str],
        outcome: Outcome,
        console: Console,
        scoring: Scoring,
        until: float,
        hung: float,
    ) -> None:
        self.store, self.launcher, self.program, self.arguments = store, launcher, program, arguments
        self.outcome, self.console, self.scoring, self.until, self.hung = outcome, console, scoring, until, hung
        self.queue: deque[list[Cell]] = deque()
        self.attempts: dict[str, int] = {}  # that are left to a cell
        self.folders: dict[str, Path] = {}
        self.running: list[_Running] = []
        self.free = list(range(launcher.capacity))
        self.told: set[str] = set()  # notes of cells

    def work(self, todo: Sequence[Planned], folders: dict[str, Path], concurrent: int) -> None:
        self.folders = folders
        # A cell that failed in an earlier run has had its first attempt there.
        self.attempts = {planned.cell.name: 1 if planned.state == "failed" else 2 for planned in todo}
        cells = [planned.cell for planned in todo]
        count = len(cells) if concurrent == 1 else min(len(cells), self.launcher.capacity)
        self.queue.extend(dealt(cells, count))
        capacity = min(self.launcher.capacity, count) * concurrent
        with interruptible(), Display(self.console, len(todo), capacity, self._waiting) as display:
            try:
                while self.queue or self.running:
                    if self.queue and self.free and time.time() < self.until:
                        with self.launcher.batch():
                            while self.queue and self.free:
                                self._start(self.queue.popleft(), display)
                    for item in list(self.running):
                        self._attend(item, display)
                    if not self.running and time.time() >= self.until:
                        break
                    display.tick()
                    time.sleep(POLL_S)
                self.outcome.stopped |= {cell.name: "not begun" for group in self.queue for cell in group}
            except KeyboardInterrupt:
                count = sum(len(item.cells.keys() - item.ends.keys()) for item in self.running)
                display.say(f"stopping {count} cells; what is finished is stored, the next run continues")
                raise
            finally:
                self._stop()

    def _waiting(self) -> list[Cell]:
        begun = [
            cell for item in self.running for name, cell in item.cells.items() if name not in item.shown | item.ends
        ]
        return [*begun, *(cell for group in self.queue for cell in group)]

    def _start(self, group: list[Cell], display: Display) -> None:
        slot = self.free.pop(0)
        configs = [str(self.folders[cell.name] / "config.json") for cell in group]
        job = self.launcher.start([*self.program, *configs, *self.arguments], slot)
        item = _Running({cell.name: cell for cell in group}, job, slot)
        self.running.append(item)
        if len(group) == 1:
            self._show(item, group[0], display)

    def _show(self, item: _Running, cell: Cell, display: Display, begun: bool = True) -> None:
        """From the first that a cell says of itself, where a process has several. One that had not begun when its
        process ended has lost no attempt."""
        if cell.name not in item.shown:
            item.shown[cell.name] = True
            self.attempts[cell.name] -= begun
            display.start(cell, again=self.attempts[cell.name] == 0)

    def _attend(self, item: _Running, display: Display) -> None:
        status = item.job.poll()  # before the events, so that none comes after the last look
        for event in item.job.events():
            self._hear(item, event, display)
            if event["event"] != "alive":
                item.heard = time.monotonic()
        if status is None and not self.launcher.queues and time.monotonic() - item.heard > self.hung:
            item.end = f"its process did nothing for {duration(time.monotonic() - item.heard)} and was ended"
            stop_all([item.job])
            status = item.job.poll()
        if status is None:
            return
        status = status if item.status is None else item.status
        for cell in item.cells.values():
            self._show(item, cell, display, begun=False)
            self._settle(item, cell, status, display)
        self.running.remove(item)
        self.free.append(item.slot)
        if status == UNWRITABLE:
            raise StoreError(next(self.outcome.failed[name] for name in item.cells if name in self.outcome.failed))

    def _hear(self, item: _Running, event: dict[str, Any], display: Display) -> None:
        label = next(iter(item.cells)) if len(item.cells) == 1 else f"{len(item.cells)} cells"
        cell = item.cells.get(event.get("cell") or label)
        if event["event"] == "ends":
            item.status = event["status"]
        if event["event"] == "note" and event["text"] not in self.told:
            self.told.add(event["text"])
            display.say(f"{label}: {event['text']}")
        if cell is None:
            return
        self._show(item, cell, display)
        if event["event"] == "scored":
            display.say(f"{cell.name}: {event['text']}")
        elif event["event"] in ("done", "failed", "busy", "stopped"):
            item.ends[cell.name] = event
        display.see(cell, event)

    def _settle(self, item: _Running, cell: Cell, status: int, display: Display) -> None:
        """What became of a cell whose process has ended."""
        name, folder, end = cell.name, self.folders[cell.name], item.ends.get(cell.name, {"event": ""})
        if end["event"] == "done" and finished(self.store, folder):
            self.outcome.done.append(name)
            if partial := unscored_images(self.store, folder) or not_kept(cell, self.store, self.scoring):
                self.outcome.partial[name] = partial
            display.end(cell, f"done, {partial}," if partial else "done", done=True, final=True)
        elif end["event"] == "busy":
            self.outcome.busy[name] = end["reason"]
            display.end(cell, "runs elsewhere", done=False, final=True)
        elif end["event"] == "stopped":
            self.outcome.stopped[name] = self._stands_at(folder)
            display.end(cell, self.outcome.stopped[name], done=False, final=True)
        else:
            reason = self._record_failure(item, folder, end.get("reason") or item.end or _died(status))
            again = self.attempts[name] > 0 and not end.get("final") and status != UNWRITABLE
            if again:
                self.queue.append([cell])
            else:
                self.outcome.failed[name] = reason
            what = f"failed ({reason}){', to be tried again' if again else ''}"
            display.end(cell, what, done=False, final=not again)

    def _stands_at(self, folder: Path) -> str:
        stored = self.store.status(folder)
        return "not all weights are scored yet" if stored["state"] == "done" else stored["reason"]

    def _record_failure(self, item: _Running, folder: Path, reason: str) -> str:
        """Files why a cell is not done, with the end of what its process wrote to stderr, and returns it."""
        tail = "\n".join(item.job.errors().splitlines()[-TAIL_LINES:])
        with suppress(locks.LockedError), locks.hold(folder):
            try:
                stored = self.store.status(folder)
            except StoreError:
                stored = {}
            if stored.get("state") == "done" and finished(self.store, folder):
                return reason  # of another score than its own
            where = {name: stored[name] for name in ("step", "loss") if name in stored}
            self.store.write_status(folder, "failed", reason=reason, **where, stderr=tail)
        return reason

    def _stop(self) -> None:
        """Ends what still runs (nothing, unless the run was interrupted or failed) and says so in the store."""
        stop_all(item.job for item in self.running)
        for folder in (self.folders[name] for item in self.running for name in item.cells):
            with suppress(StoreError):
                stored = stands(self.store, folder)
                if stored["state"] == "planned" and stored["reason"]:
                    with locks.hold(folder):
                        self.store.write_status(folder, **stored)


def _died(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        hint = ": out of memory? The system kills the largest process then" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
    return f"its process ended with status {status}"


if __name__ == "__main__":
    sys.exit(worker.main())
