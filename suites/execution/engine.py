"""From a suite to stored results: skip what is done, run every other cell in a process of its own, never one twice.

A cell is trained, scored and only then marked done (`suites.execution.worker`); its folder's lock keeps other engines
off. A cell whose process dies is tried once more, from its last checkpoint, and otherwise reported, while the others go
on. `python -m suites.execution.engine CELL.json --results DIR` is that process."""

import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from results import locks
from results.store import Store, StoreError
from suites import environment
from suites.execution import worker
from suites.execution.launchers import EngineError, Job, Launcher, LocalLauncher, SubmititLauncher, cores, stop_all
from suites.progress import Display, duration
from suites.spec import Cell, SpecError, Suite

__all__ = ["EngineError", "Outcome", "Planned", "plan", "run"]

PROGRAM = (sys.executable, "-m", "suites.execution.engine")
POLL_S = 0.1
TAIL_LINES = 30


class Planned(NamedTuple):
    """A cell and how it stands in a store: planned (also when cut off), running (elsewhere), done, or failed."""

    cell: Cell
    state: str
    reason: str | None


@dataclass
class Outcome:
    """What a run did, by cell name; `failed` and `busy` give the reason."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # finished before
    failed: dict[str, str] = field(default_factory=dict)
    busy: dict[str, str] = field(default_factory=dict)  # another engine works on it
    partial: dict[str, str] = field(default_factory=dict)  # done, but some test images are not there
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.failed

    def lines(self) -> list[str]:
        counts = [(self.done, "done"), (self.skipped, "done before"), (self.failed, "failed"), (self.busy, "elsewhere")]
        summary = ", ".join(f"{len(cells)} {word}" for cells, word in counts if cells) or "no cells"
        reasons = [f"{name}: {reason}" for name, reason in {**self.failed, **self.busy, **self.partial}.items()]
        return [f"{summary} in {duration(self.seconds)}", *reasons]


@dataclass
class _Running:
    cell: Cell
    folder: Path
    job: Job
    slot: int
    attempts: int  # left after this one
    failure: str | None = None  # what the cell itself said


def plan(suite: Suite, store: Store) -> list[Planned]:
    """Every cell of the suite with its state. A folder that is damaged counts as failed, and will be made good.

    Raises SpecError when two cells have one name, since nobody could tell them apart.
    """
    names = [cell.name for cell in suite.cells]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise SpecError(f"the suite {suite.name} has two cells of the name {twice[0]}: give the variants other names")
    return [_look(cell, store) for cell in suite.cells]


def _look(cell: Cell, store: Store) -> Planned:
    folder = store.cell_folder(cell.config())
    try:
        status = _stands(store, folder)
        reason = _partial(store, folder) if status["state"] == "done" else status.get("reason")
        return Planned(cell, status["state"], reason)
    except StoreError as error:
        return Planned(cell, "failed", str(error))


def _stands(store: Store, folder: Path) -> dict[str, Any]:
    """The cell's status; of one that was cut off with the step that its log tells (status.json lags behind)."""
    status = store.status(folder)
    if status["state"] == "planned" and status["reason"]:
        step = max(status.get("step", 0), worker.training_cost(folder).get("train_steps", 0))
        status |= {"step": step, "reason": f"interrupted at step {step}; it will continue"}
    return status


def _partial(store: Store, folder: Path) -> str | None:
    """What a finished cell has not scored, in words."""
    short = worker.missing(store, folder)
    parts = [f"{scored} of {count} images of {name}" for name, (scored, count) in short.items()]
    return f"scored on {', '.join(parts)}" if parts else None


def _more_to_score(cell: Cell, store: Store, data: Path | None) -> bool:
    """Whether test images of a finished cell have turned up since."""
    from suites.data import DataError, find

    folder = store.cell_folder(cell.config())
    for name in worker.missing(store, folder):
        with suppress(DataError):
            if find(name, data).files.keys() - worker.scored(folder, name):
                return True
    return False


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
    console: Console | None = None,
    command: str | None = None,
    program: Sequence[str] = PROGRAM,
) -> Outcome:
    """Brings every cell of `suite` to done, or says why not.

    jobs: cells at a time (default: one per GPU; on a CPU one per core at the smoke budget, else one). gpus: spread them
    over this many GPUs. threads: per cell (default: the cores divided by jobs; one at the smoke budget).
    deterministic: the same bits on one machine; on a CPU in any case. launch: "local" or "submitit"; cluster: see
    SubmititLauncher. command: what environment.json gives as the command (default: this process's). program: what
    runs a cell.

    Ctrl-C and SIGTERM stop the cells, leave the store consistent and raise KeyboardInterrupt; the next run continues.
    Raises EngineError, DataError or what `suites.execution.preflight` does before anything starts, StoreError when the
    store cannot be written (then too the other cells are stopped, and continue in the next run)."""
    begun = time.monotonic()
    outcome = Outcome()
    todo: list[Planned] = []
    for planned in plan(suite, store):
        if planned.state == "done" and not (planned.reason and _more_to_score(planned.cell, store, data)):
            outcome.skipped.append(planned.cell.name)
            if planned.reason:
                outcome.partial[planned.cell.name] = planned.reason
        elif planned.state == "running":
            holder = locks.holder(store.cell_folder(planned.cell.config()))
            outcome.busy[planned.cell.name] = f"is running already: {holder}"
        else:
            todo.append(planned)
    if todo:
        from suites.execution import preflight  # and torch: an engine with nothing to do need not wait for it

        preflight.check_data([planned.cell for planned in todo], data)
        launcher = _launcher(launch, todo, store, device, jobs, gpus, threads, cluster)
        # The nodes of a cluster are other machines than this one.
        preflight.check_cells([planned.cell for planned in todo], backend, "meta" if launch == "submitit" else device)
    for family in suite.compared():
        members = [(label, cell.config()) for label, cell in family.members]
        store.add_family(suite.name, family.name, family.base.config(), members)
    if todo:
        folders = {planned.cell.name: store.open_cell(planned.cell.config()) for planned in todo}
        options = _arguments(store, device, data, backend, deterministic, launcher, command)
        _Engine(store, launcher, list(program), options, outcome, console or Console()).work(todo, folders)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _launcher(
    launch: str,
    todo: Sequence[Planned],
    store: Store,
    device: str,
    jobs: int | None,
    gpus: int | None,
    threads: int | None,
    cluster: str | None,
) -> Launcher:
    if launch == "submitit":
        if gpus is not None:
            raise EngineError("--gpus spreads cells over this machine; with --launch submitit each job gets one GPU")
        return SubmititLauncher(store.root / ".launch", jobs or len(todo), gpu=device != "cpu", cluster=cluster)
    if launch != "local":
        raise EngineError(f"unknown launcher {launch!r}: choose from local, submitit")
    if gpus is not None and not device.startswith("cuda"):
        raise EngineError(f"--gpus {gpus} needs --device cuda, not {device}")
    if device == "cpu" and all(planned.cell.budget.name == "smoke" for planned in todo):
        # Too small to gain from a second thread, and so the bits do not depend on how many run side by side.
        threads, jobs = threads or 1, min(cores(), len(todo)) if jobs is None else jobs
    return LocalLauncher(gpus or 1 if jobs is None else jobs, gpus, threads)


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


class _Engine:
    """One run: a queue of cells, as many at work as the launcher takes."""

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        program: list[str],
        arguments: list[str],
        outcome: Outcome,
        console: Console,
    ) -> None:
        self.store, self.launcher, self.program, self.arguments = store, launcher, program, arguments
        self.outcome, self.console = outcome, console
        self.queue: deque[tuple[Cell, int]] = deque()  # with the attempts that are left
        self.running: list[_Running] = []
        self.free = list(range(launcher.capacity))
        self.told: set[str] = set()  # notes of cells

    def work(self, todo: Sequence[Planned], folders: dict[str, Path]) -> None:
        # A cell that failed in an earlier run has had its first attempt there.
        self.queue.extend((planned.cell, 1 if planned.state == "failed" else 2) for planned in todo)
        with _interruptible(), Display(self.console, len(todo), self.launcher.capacity, self._waiting) as display:
            try:
                while self.queue or self.running:
                    while self.queue and self.free:
                        self._start(*self.queue.popleft(), folders, display)
                    for item in list(self.running):
                        self._attend(item, display)
                    display.tick()
                    time.sleep(POLL_S)
            except KeyboardInterrupt:
                display.say(f"stopping {len(self.running)} cells; what is finished is stored, the next run continues")
                raise
            finally:
                self._stop()

    def _waiting(self) -> list[Cell]:
        return [cell for cell, _ in self.queue]

    def _start(self, cell: Cell, attempts: int, folders: dict[str, Path], display: Display) -> None:
        slot = self.free.pop(0)
        folder = folders[cell.name]
        job = self.launcher.start([*self.program, str(folder / "config.json"), *self.arguments], slot)
        self.running.append(_Running(cell, folder, job, slot, attempts - 1))
        display.start(cell, again=attempts == 1)

    def _attend(self, item: _Running, display: Display) -> None:
        status = item.job.poll()  # before the events, so that none comes after the last look
        for event in item.job.events():
            if event["event"] in ("failed", "busy"):
                item.failure = event["reason"]
            elif event["event"] == "note" and event["text"] not in self.told:
                self.told.add(event["text"])
                display.say(f"{item.cell.name}: {event['text']}")
            display.see(item.cell, event)
        if status is None:
            return
        name = item.cell.name
        if status == worker.DONE and worker.finished(self.store, item.folder):
            self.outcome.done.append(name)
            if partial := _partial(self.store, item.folder):
                self.outcome.partial[name] = partial
            display.end(item.cell, f"done, {partial}," if partial else "done", done=True, final=True)
        elif status == worker.BUSY:
            self.outcome.busy[name] = item.failure or "is running already"
            display.end(item.cell, "runs elsewhere", done=False, final=True)
        else:
            reason = self._record_failure(item, status)
            again = item.attempts > 0 and status not in (worker.REFUSED, worker.UNWRITABLE)
            if again:
                self.queue.append((item.cell, item.attempts))
            else:
                self.outcome.failed[name] = reason
            what = f"failed ({reason}){', to be tried again' if again else ''}"
            display.end(item.cell, what, done=False, final=not again)
            if status == worker.UNWRITABLE:
                raise StoreError(reason)
        self.running.remove(item)
        self.free.append(item.slot)

    def _record_failure(self, item: _Running, status: int) -> str:
        """Files why the process ended, with the end of what it wrote to stderr, and returns it in one line."""
        reason = item.failure or _died(status)
        tail = "\n".join(item.job.errors().splitlines()[-TAIL_LINES:])
        with suppress(locks.LockedError), locks.hold(item.folder):
            try:
                stored = self.store.status(item.folder)
            except StoreError:
                stored = {}
            where = {name: stored[name] for name in ("step", "loss") if name in stored}
            self.store.write_status(item.folder, "failed", reason=reason, **where, stderr=tail)
        return reason

    def _stop(self) -> None:
        """Ends what still runs (nothing, unless the run was interrupted or failed) and says so in the store."""
        stop_all(item.job for item in self.running)
        for item in self.running:
            with suppress(StoreError):
                stored = _stands(self.store, item.folder)
                if stored["state"] == "planned" and stored["reason"]:
                    with locks.hold(item.folder):
                        self.store.write_status(item.folder, **stored)


def _died(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        hint = ": out of memory? The system kills the largest process then" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
    return f"its process ended with status {status}"


@contextmanager
def _interruptible() -> Iterator[None]:
    """Within: SIGTERM and a closed terminal end the run as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {}
    with suppress(ValueError):  # not in the main thread: signals are not ours to handle
        before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(worker.main())
