"""What a run shows while it works: live bars on a terminal, plain lines elsewhere, and a time left that is measured.

The time left is never guessed: it appears once steps of training have been timed in this run, and is "at least" until
a first cell has finished and told what starting and evaluating cost.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from suites.spec import Cell

LINE_S = 15  # between two plain lines about the whole run
SETTLED_S = 2.0  # of training before its rate is believed


def duration(seconds: float) -> str:
    """Two leading units: 45 s, 3 min 20 s, 5 h 12 min, 2 d 3 h."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    rest, parts = round(seconds), []
    for name, size in units:
        if rest >= size:
            parts.append(f"{rest // size} {name}")
            rest %= size
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def counted(number: int, thing: str) -> str:
    """1 cell, 2 cells."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


@dataclass
class Watch:
    """One attempt at a cell, timed from outside by what it reports."""

    cell: Cell
    started: float
    step: int = 0
    first: tuple[int, float] | None = None  # (step, time) of the first report of training
    latest: tuple[int, float] | None = None
    text: str = "starting"

    def see(self, event: dict[str, Any], now: float) -> None:
        if event["event"] == "train":
            self.step = event["step"]
            self.first = self.first or (self.step, now)
            self.latest = (self.step, now)
            loss = f", loss {event['loss']:.4f}" if "loss" in event else ""
            self.text = f"training {self.step}/{event['iterations']}{loss}"
        elif event["event"] == "scored":
            self.text = "scoring"
        elif event["event"] == "evaluate":
            self.step = self.cell.budget.iterations
            self.text = f"evaluating {event['dataset']} {event['done']}/{event['total']}"

    @property
    def rate(self) -> float | None:
        """Seconds per iteration, None before it is settled."""
        if self.first is None or self.latest is None:
            return None
        steps, seconds = self.latest[0] - self.first[0], self.latest[1] - self.first[1]
        return seconds / steps if steps and seconds >= SETTLED_S else None

    @property
    def training(self) -> float:
        """Seconds of training seen."""
        return self.latest[1] - self.first[1] if self.first and self.latest else 0.0


@dataclass
class Forecast:
    """Seconds left of a run, from the rates measured in it; a variant not yet seen takes the mean rate of the others.

    `capacity` cells run at a time. Rates and overheads are kept per task and budget: nothing else is comparable.
    """

    capacity: int
    rates: dict[tuple, dict[str, float]] = field(default_factory=dict)  # kind -> variant -> s per iteration
    overheads: dict[tuple, list[float]] = field(default_factory=dict)  # kind -> s not spent training, per cell

    @staticmethod
    def kind(cell: Cell) -> tuple:
        return cell.variant.model, cell.task, cell.budget, cell.test_sets, cell.protocol

    def learn(self, watch: Watch) -> None:
        if watch.rate is not None:
            self.rates.setdefault(self.kind(watch.cell), {})[watch.cell.variant.name] = watch.rate

    def finished(self, watch: Watch, now: float) -> None:
        self.learn(watch)
        self.overheads.setdefault(self.kind(watch.cell), []).append(now - watch.started - watch.training)

    def left(self, running: Iterable[Watch], waiting: Iterable[Cell], now: float) -> tuple[float, bool] | None:
        """(seconds, whether it is only a lower bound), or None when some cell is like none that was timed."""
        work, longest, bound = 0.0, 0.0, False
        for cell, watch in [*((watch.cell, watch) for watch in running), *((cell, None) for cell in waiting)]:
            known = self.rates.get(self.kind(cell))
            if not known:
                return None
            rate = known.get(cell.variant.name, sum(known.values()) / len(known))
            overheads = self.overheads.get(self.kind(cell))
            bound = bound or not overheads
            overhead = sum(overheads) / len(overheads) if overheads else 0.0
            steps = cell.budget.iterations
            if watch is not None:
                steps -= watch.step
                overhead = max(0.0, overhead - (now - watch.started - watch.training))
            work += rate * steps + overhead
            longest = max(longest, rate * steps + overhead)
        return max(longest, work / self.capacity), bound

    def text(self, running: Iterable[Watch], waiting: Iterable[Cell], now: float) -> str:
        left = self.left(running, waiting, now)
        if left is None:
            return "time left: not measured yet"
        if left[1] and left[0] < 1:
            return "time left: scoring is not measured yet"
        return f"{'at least' if left[1] else 'about'} {duration(left[0])} left"


class Display:
    """Shows a run of `total` cells; `waiting()` gives those not started. A context manager."""

    def __init__(self, console: Console, total: int, capacity: int, waiting: Callable[[], list[Cell]]) -> None:
        self.console, self.total, self.waiting = console, total, waiting
        self.forecast = Forecast(max(1, min(capacity, total)))
        self.ended = 0
        self._watches: dict[str, Watch] = {}
        self._line_due = time.monotonic() + LINE_S
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"))
            self._bars = Progress(*columns, console=console, refresh_per_second=4, transient=True)
            self._whole = self._bars.add_task("cells", total=total, text="")

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars:
            self._bars.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, cell: Cell, again: bool) -> None:
        self._watches[cell.name] = Watch(cell, time.monotonic())
        if self._bars:
            text = "starting"
            self._tasks[cell.name] = self._bars.add_task(cell.name, total=cell.budget.iterations, text=text)
        else:
            self.say(f"{cell.name}: started{' again' if again else ''}")

    def see(self, cell: Cell, event: dict[str, Any]) -> None:
        watch = self._watches[cell.name]
        watch.see(event, time.monotonic())
        self.forecast.learn(watch)

    def end(self, cell: Cell, outcome: str, *, done: bool, final: bool) -> None:
        """outcome: one line. done: it counts as a measurement of a whole cell. final: it will not be tried again."""
        watch = self._watches.pop(cell.name)
        now = time.monotonic()
        if done:
            self.forecast.finished(watch, now)
        self.ended += final
        if self._bars:
            self._bars.remove_task(self._tasks.pop(cell.name))
        self.say(f"[{self.ended}/{self.total}] {cell.name}: {outcome} after {duration(now - watch.started)}")
        self.tick()

    def tick(self) -> None:
        """To be called often; draws what is due."""
        now = time.monotonic()
        if self._bars:
            self._bars.update(self._whole, completed=self.ended, text=self._text(now))
            for name, task in self._tasks.items():
                self._bars.update(task, completed=self._watches[name].step, text=self._watches[name].text)
        elif now >= self._line_due and self._watches:
            self._line_due = now + LINE_S
            running = "; ".join(f"{name} {watch.text}" for name, watch in self._watches.items())
            self.say(f"[{self.ended}/{self.total}] {running}; {self._text(now)}")

    def _text(self, now: float) -> str:
        return self.forecast.text(self._watches.values(), self.waiting(), now)


class ScoreBar(Progress):
    """A bar per dataset while `things` are scored; where there is no terminal, a line now and then."""

    def __init__(self, console: Console, things: str = "images") -> None:
        self.things = things
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.bars: dict[str, TaskID] = {}
        self.line_due = time.monotonic() + LINE_S

    def __call__(self, dataset: str, done: int, total: int, image: str) -> None:
        if dataset not in self.bars:
            self.bars[dataset] = self.add_task(dataset, total=total)
        self.update(self.bars[dataset], completed=done)
        left = self.tasks[self.bars[dataset]].time_remaining
        about = "" if left is None or left < 1 else f", about {duration(left)} left"
        self.line_due = _line(self, self.line_due, f"{dataset}: {done} of {total} {self.things}{about}")


class TileBar(Progress):
    """A bar per picture while its tiles are restored; where there is no terminal, a line now and then."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tiles"))
        columns += (TimeRemainingColumn(),)
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.bar: TaskID | None = None
        self.line_due = time.monotonic() + LINE_S

    def __call__(self, picture: str, done: int, total: int) -> None:
        if done == 0:
            if self.bar is not None:
                self.remove_task(self.bar)
            self.bar = self.add_task(picture, total=total)
        self.update(self.bar, completed=done)
        self.line_due = _line(self, self.line_due, f"{picture}: {done} of {total} tiles")


def _line(bar: Progress, due: float, text: str) -> float:
    """Prints `text` where there is no terminal and it is time for a line. Returns when the next one is due."""
    if not bar.disable or time.monotonic() < due:
        return due
    bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
    return time.monotonic() + LINE_S
