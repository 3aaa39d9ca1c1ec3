"""What `profile` shows while it measures: what is being done, and how long the rest will take."""

import itertools
import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from suites.benchmark.comparison import CHECKS, Candidate, Entry, Plan, Point
from suites.progress import LINE_S, duration


class Forecast:
    """Time left of a plan. Each candidate's latest reading at a point counts; at a point without one, its latest
    reading at another point of the mode, scaled by the number of pixels."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.done = plan, 0
        self.total = len(plan.points) * len(plan.candidates) * plan.rounds
        self.taken: dict[tuple[Point, Candidate], int] = {}
        self.seconds: dict[tuple[Point, Candidate], float] = {}  # of the latest reading
        self.rates: dict[tuple[str, Candidate], float] = {}  # per input pixel, of the latest reading of a mode

    def read(self, point: Point, entry: Entry) -> None:
        key = point, entry.candidate
        self.done += 1
        self.taken[key] = self.taken.get(key, 0) + 1
        self.seconds[key] = entry.times[-1] * entry.calls / 1e3 if entry.status == "ok" else 0.0
        self.rates[point.mode, entry.candidate] = self.seconds[key] / point.pixels

    def text(self) -> str:
        left, known = 0.0, True
        for point, candidate in itertools.product(self.plan.points, self.plan.candidates):
            rate = self.rates.get((point.mode, candidate))
            known = known and rate is not None
            seconds = self.seconds.get((point, candidate), (rate or 0.0) * point.pixels)
            left += seconds * (self.plan.rounds - self.taken.get((point, candidate), 0) + CHECKS)
        return f"{'about' if known else 'at least'} {duration(left)} left" if self.rates else "time left not known yet"


class ProfileBar(RichProgress):
    """A bar with what is measured now and the time left; without a terminal a line every LINE_S seconds."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[left]}"))
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.bar, self.line_due = self.add_task("starting", total=None, left=""), 0.0

    def __call__(self, text: str, done: int, total: int, left: str) -> None:
        self.update(self.bar, description=text, completed=done, total=total, left=left)
        if self.disable and time.monotonic() >= self.line_due:
            self.line_due = time.monotonic() + LINE_S
            self.console.print(f"[{done}/{total}] {text}; {left}", markup=False, highlight=False, soft_wrap=True)
