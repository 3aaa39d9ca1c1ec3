"""Drives a sweep: one process a network, each point filed as soon as it is measured, what is filed skipped.

A point has a time limit; a process that outlasts it, crashes or is stopped leaves a row that says so, and the next
process goes on with the points after it. A size after one that did not fit, or took too long, is not tried. Kernels are
compiled first, by several processes at a time, while nothing is timed.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from results import records
from results.costs import lines
from suites import environment
from suites.benchmark.sweep import compiling, peers, quiet
from suites.benchmark.sweep.points import Point, processes
from suites.benchmark.sweep.process import Process, physical
from suites.progress import counted, duration

LIMIT_S = {"cuda": 60.0, "cpu": 600.0}  # of a point
AT_ONCE = 4  # processes that import together, before one of them measures
START_S = 300.0  # until a process has imported what it needs
COMPILE_S, COMPILE_SHARE = (60.0, 150.0), 0.2  # of all compiling: this share of the seconds allowed, within these
CALLS, BESIDE_S = 10, 1.0  # of a point: the first, the readings, a reference that is slower; and what it takes besides
TOO_MUCH = {"oom": "did not fit", "timeout": "took too long"}


@dataclass
class Sweep:
    """points: in order of importance. seconds: after which no more is begun. say: gets a line about each point."""

    points: Sequence[Point]
    writer: lines.Writer
    device: torch.device
    gpus: int
    seconds: float
    limit: float
    say: Callable[[str], object]
    started: float = field(default_factory=time.monotonic)
    lock: threading.RLock = field(default_factory=threading.RLock)
    stop: threading.Event = field(default_factory=threading.Event)
    timed: dict[tuple, tuple[int, float]] = field(default_factory=dict)  # (pixels, ms) of a series' last point
    groups: list[list[Point]] = field(default_factory=list)  # what no process has begun
    left: dict[str, Point] = field(default_factory=dict)  # what is not filed yet, by key
    taken: list[float] = field(default_factory=list)  # seconds of each point that was timed
    begun: tuple[Point, float] | None = None  # the first point, and seconds of this command until it was begun
    total: int = 0
    errors: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        """Until all is filed or the seconds are over. Ctrl-C leaves a row for what was being measured."""
        self.before = quiet.before([physical(self.device, slot) for slot in range(self.gpus)])
        self.writer.add({"run": {"command": environment.command(), "started": records.now(), **self.before}})
        self.left = {point.key: point for point in self.points if not self.writer.costs.is_done(point.key)}
        self.total = len(self.left)
        for row in self.writer.costs.rows.values():
            if row["status"] == "ok":
                self.timed[series(row)] = row["height"] * row["width"] * row["batch"], row["median_ms"]
        for point in [point for point in self.left.values() if point.subject in peers.MISSING]:
            self.file(point, {"status": "missing", "reason": peers.MISSING[point.subject]}, 0.0)
        todo = list(self.left.values())
        self.groups = processes(todo)
        slots = [threading.Thread(target=self.slot, args=(slot,)) for slot in range(max(1, self.gpus))]
        try:
            with quiet.Sampler() as self.sampler:
                self.compile(todo)
                for slot in slots:
                    slot.start()
                while any(slot.is_alive() for slot in slots):
                    time.sleep(0.1)  # not in `join`: a signal must be seen
        finally:
            self.stop.set()
            for slot in (slot for slot in slots if slot.ident):
                slot.join()
        if self.errors:
            raise self.errors[0]

    def time_left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    def over(self) -> bool:
        return self.stop.is_set() or self.time_left() <= 0

    def compile(self, todo: Sequence[Point]) -> None:
        chosen = compiling.ways(todo) if self.device.type == "cuda" else []
        before = compiling.compiled_before() if chosen else []
        if before:
            self.say(f"the kernels of {counted(len(before), 'network')} were compiled before")
        chosen = [way for way in chosen if compiling.name(way) not in before]
        if not chosen:
            return
        self.say(f"compiling the kernels of {counted(len(chosen), 'network')}; nothing is timed meanwhile")
        least, most = COMPILE_S  # what is ended early is compiled again, one by one, by the first calls
        deadline = time.monotonic() + min(most, max(least, COMPILE_SHARE * self.seconds))
        result: list[dict[str, Any]] = []

        def work() -> None:
            late = lambda: self.stop.is_set() or time.monotonic() > deadline  # noqa: E731
            result.append(compiling.compile_all(chosen, self.device, self.gpus, late))

        worker = threading.Thread(target=work)
        worker.start()
        try:
            while worker.is_alive():
                time.sleep(0.1)
        finally:
            self.stop.set() if worker.is_alive() else None
            worker.join()
        self.writer.add({"compiled": result[0]})
        failed = "".join(f"; {name}: {how}" for name, how in result[0]["failed"].items())
        self.say(f"compiled {len(result[0]['networks'])} of {len(chosen)} in {result[0]['seconds']} s{failed}")

    # --- points ----------------------------------------------------------------------------------------------------

    def slot(self, slot: int) -> None:
        """Measures networks on one GPU, or the CPU, until none waits.

        On a GPU the processes of the next networks import together, and none of this slot while another one is timed:
        a network that is launched kernel by kernel waits for the host.
        """
        waiting: list[Process] = []
        number = AT_ONCE if self.device.type == "cuda" else 1
        try:
            while group := self.next_group():
                if not waiting:
                    waiting = [Process(self.device, slot) for _ in range(min(number, 1 + len(self.groups)))]
                    for process in waiting:
                        process.wait(self.over)
                    if self.over():  # they were ended while they imported
                        break
                with waiting.pop(0) as process:
                    if slot == 0 and not self.writer.costs.rates:
                        self.rates(process)
                    rest = self.measured(process, group, slot)
                if rest:
                    with self.lock:
                        self.groups.insert(0, rest)
        except BaseException as error:  # of the file, mostly: told by the main thread
            self.errors.append(error)
            self.stop.set()
        finally:
            for process in waiting:
                process.kill()

    def next_group(self) -> list[Point]:
        """The next points of one network; none when all are done, the time is over or the command was stopped."""
        with self.lock:
            return [] if self.over() or not self.groups else self.groups.pop(0)

    def rates(self, process: Process) -> None:
        """Files the ceilings of the machine, measured before the first network."""
        end = time.monotonic() + START_S
        process.order("rates", ())
        for message in process.messages(lambda: self.stop.is_set() or time.monotonic() > end):
            if "rates" in message:
                with self.lock:
                    self.writer.add({"rates": message["rates"]})

    def measured(self, process: Process, group: list[Point], slot: int) -> list[Point]:
        """Files the points of a group. Where its process ends before, returns those that another one must take."""
        while group:
            point = group.pop(0)
            if self.stop.is_set() or self.outsized(point) or not self.fits(point):
                continue
            since, deadline, reason = time.time(), time.monotonic() + self.limit, {}

            def late(deadline: float = deadline, reason: dict = reason) -> bool:
                if self.stop.is_set():
                    reason |= {"status": "interrupted", "reason": "the command was stopped"}
                elif self.time_left() <= 0:
                    reason |= {"status": "interrupted", "reason": "the time of --seconds was over"}
                elif time.monotonic() > deadline:
                    reason |= {"status": "timeout", "reason": f"it took more than {self.limit:g} s"}
                return bool(reason)

            row, self.begun = None, self.begun or (point, self.seconds - self.time_left())
            process.order("measure", [point], self.proved(point))
            for message in process.messages(late):
                row = message.get("row", row)
            if row is None:
                ended = {"status": "failed", "reason": f"its process ended with {process.ending()}"}
                self.file(point, reason or ended, time.time() - since)
                return group
            row |= {"gpu": self.sampler.of(physical(self.device, slot), since, time.time()), "slot": slot}
            if self.device.type == "cpu":
                row |= {"load": os.getloadavg()[0], "threads": torch.get_num_threads()}
            elif point.launch == "eager":  # it waits for the host
                row |= {"load": os.getloadavg()[0]}
            self.file(point, row, time.time() - since)
        return []

    def proved(self, point: Point) -> dict[str, Any] | None:
        """What a point of the same network, mode, precision and backend has shown at the small size, if it passed."""
        wanted = (point.subject, point.task, point.mode, point.precision, point.backend)
        for row in list(self.writer.costs.rows.values()):
            same = tuple(row[name] for name in ("subject", "task", "mode", "precision", "backend")) == wanted
            if same and row["status"] == "ok":
                return row["check"].get("small")
        return None

    def outsized(self, point: Point) -> bool:
        """Files a point as not tried where a smaller one of its series did not fit or took too long."""
        for row in list(self.writer.costs.rows.values()):
            pixels = row["height"] * row["width"] * row["batch"]
            if series(row) == point.series and pixels < point.pixels and row["status"] in TOO_MUCH:
                reason = f"{row['height']}x{row['width']} {TOO_MUCH[row['status']]}"
                self.file(point, {"status": "skipped", "reason": reason}, 0.0)
                return True
        return False

    def fits(self, point: Point) -> bool:
        """Whether it is expected to end within the seconds allowed."""
        expected = self.expected(point)
        return expected is None or expected <= self.time_left()

    def expected(self, point: Point) -> float | None:
        """Seconds, by the call's time at the last point of its series; None where there is none."""
        pixels, milliseconds = self.timed.get(point.series, (0, 0.0))
        return BESIDE_S + CALLS * milliseconds / 1e3 * point.pixels / pixels if pixels else None

    def too_short(self) -> str | None:
        """How many seconds one point needs, where they were over before any was timed."""
        rest = [point for point in self.points if not self.writer.costs.is_done(point.key)]
        if self.taken or not rest or self.seconds == math.inf:
            return None
        known = [seconds for point in rest if (seconds := self.expected(point)) is not None]
        point, before = self.begun or (None, self.seconds - self.time_left())
        went = f"{before:.0f} s went by before the first was begun"
        if point:
            went += f", and {point.name} was not done in the {max(0.0, self.seconds - before):.0f} s after that"
        needs = f"takes about {min(known):.0f} s" if known else f"may take up to {self.limit:g} s (--limit)"
        enough = math.ceil(before + (min(known) if known else self.limit))
        return f"--seconds {self.seconds:g} is too little for one point: {went}. One {needs}: give --seconds {enough}"

    # --- what is filed and said --------------------------------------------------------------------------------------

    def file(self, point: Point, row: dict[str, Any], seconds: float) -> None:
        row = {**point.facts(), "subject": point.subject, **row}
        row |= {"seconds": round(seconds, 3), "finished": records.now(), "noise": quiet.noise(row, self.before)}
        with self.lock:
            self.writer.add({"row": row})
            self.left.pop(point.key, None)
            if row["status"] == "ok":
                self.timed[point.series] = point.pixels, row["median_ms"]
                self.taken.append(seconds)
            self.say(self.told(point, row))

    def told(self, point: Point, row: dict[str, Any]) -> str:
        found = row["reason"] or ""
        if row["status"] == "ok":
            found = f"{row['median_ms']:,.4g} ms ({row['p10_ms']:,.4g} to {row['p90_ms']:,.4g})"
            found += f" a picture, mean of {len(point.sizes)}" if point.pictures else ""
            found += f", {row['peak_mib']:,.0f} MiB" if row.get("peak_mib") else ""
        noisy = f"; noisy: {', '.join(row['noise'])}" if row["noise"] else ""
        status = "" if row["status"] == "ok" else f"{row['status']}: "
        return f"[{self.total - len(self.left)}/{self.total}] {point.name}: {status}{found}{noisy}; {self.forecast()}"

    def forecast(self) -> str:
        """Time left, by the calls of points of the same series; a point of one not begun counts as the mean of all."""
        if not self.left:
            return "all done"
        if not self.taken:
            return "time left not known yet"
        known = [seconds for point in self.left.values() if (seconds := self.expected(point)) is not None]
        unknown = len(self.left) - len(known)
        mean = sum(self.taken) / len(self.taken)
        left = (sum(known) + unknown * mean) / max(1, self.gpus)
        text = f"{'at least' if unknown else 'about'} {duration(left)} left"
        return text if left <= self.time_left() else f"{text}, {duration(max(0.0, self.time_left()))} allowed"


def series(row: dict[str, Any]) -> tuple:
    """`Point.series` of what was filed."""
    named = tuple(row[name] for name in ("subject", "task", "mode", "batch", "precision", "backend"))
    return *named, row.get("pictures", "")
