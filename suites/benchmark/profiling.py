"""What networks cost in time and memory: candidates that take turns in one process, each checked before it is timed.

A point is a mode, an input size and a batch. At every point the candidates (a model in a precision, with a scan
backend, launched in one of three ways) are compared (`suites.benchmark.comparison`): first each is called, checked and
warmed up, then they are timed in rounds, and at the end checked once more. A round goes through the candidates at the
first size, A B C, then at the next size, so that a machine that slows down slows all candidates and all sizes of a
sweep. Ratios are taken within rounds, to the first candidate. The scan alone is measured likewise
(`suites.benchmark.kernels`)."""

import gc
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from models.ops import scan
from results import records
from suites import environment
from suites.benchmark import kernels
from suites.benchmark.comparison import CHECKS, Candidate, Comparison, Entry, Plan, Point
from suites.benchmark.launch_modes import LAUNCHES
from suites.benchmark.timing import StopWatch
from suites.benchmark.variants import parse_variant
from suites.progress import LINE_S, duration
from suites.spec import PRECISIONS, ROUTINGS, SpecError, Task, check_choice
from suites.training.step import determinism

WRONG = ("differs", "failed")  # statuses that nobody should have to expect
MODES = ("inference", "training")
Progress = Callable[[str, int, int, str], None]  # (what is done now, readings taken, readings in all, time left)


def plan(
    variants: str,
    task: Task,
    *,
    sizes: str = "64x64",
    modes: str = "inference",
    batches: str = "1",
    precisions: str = "fp32",
    backends: str = "auto",
    launches: str = "eager",
    routing: str = "gumbel",
    rounds: int,
    device: str,
) -> Plan:
    """Every combination of the comma-separated choices, as typed. The first candidate is the one ratios refer to.

    backends: names, "auto" (the one that networks choose here), "all" (every one that can run here). launches: of
    suites.benchmark.launch_modes.LAUNCHES. Raises SpecError or ModelError for what does not exist; what cannot run here
    is found by running it."""
    torch_device = torch.device(device)
    for mode in (names := _split("--mode", modes)):
        check_choice("mode", mode, MODES)
    for precision in (kinds := _split("--precision", precisions)):
        check_choice("precision", precision, PRECISIONS)
    for launch in (ways := _split("--launch", launches)):
        check_choice("launch", launch, LAUNCHES)
    check_choice("routing", routing, ROUTINGS)
    if rounds < 1:
        raise SpecError(f"--rounds is {rounds}: at least 1 is needed")
    if not all(batch.isdecimal() and int(batch) for batch in _split("--batch", batches)):
        raise SpecError(f"--batch is {batches!r}: give whole numbers of at least 1, for example 1,8")
    chosen = _backends(_split("--backends", backends), torch_device)
    candidates = [
        Candidate(variant, precision, backend, launch)
        for variant, precision, backend, launch in itertools.product(_variants(variants, task), kinds, chosen, ways)
    ]
    shapes = [_size(size) for size in _split("--sizes", sizes)]
    numbers = [int(batch) for batch in _split("--batch", batches)]
    points = [Point(mode, shape, number) for mode in names for number in numbers for shape in shapes]
    unique = tuple(dict.fromkeys(candidates)), tuple(dict.fromkeys(points))
    return Plan(*unique, task, routing, rounds, torch_device)


def _split(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise SpecError(f"{option} is empty: give at least one value")
    return names


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise SpecError(f"{text!r} is no size: give HEIGHTxWIDTH of the network's input, for example 64x64")
    return int(height), int(width)


def _variants(text: str, task: Task) -> list[str]:
    variants = [" ".join(variant.split()) for variant in _split("--models", text)]
    for variant in variants:
        parse_variant(variant, task)
    return variants


def _backends(names: Sequence[str], device: torch.device) -> list[str]:
    """Names of scan backends without "auto" and "all". Those that cannot run here stay, when they were asked for."""
    chosen = []
    for name in names:
        if name == "auto":
            chosen.append(scan.resolve("auto", device))
        elif name == "all":
            modules = {other: scan.load(other) for other in (*scan.BACKENDS, *scan.PEERS)}
            fitting = [n for n, m in modules.items() if m.DEVICES is None or device.type in m.DEVICES]
            chosen += [n for n in fitting if modules[n].unavailable() is None]
        else:
            scan.load(name)  # raises for an unknown one
            chosen.append(name)
    return chosen


def run(
    plans: Sequence[Plan | kernels.Plan],
    on_progress: Progress | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """{"rows": a row per candidate and point, "operators": one per way and case, "environment"}, JSON-able.

    keep: called with everything so far whenever rows are added, so that a run that is killed leaves what it measured.
    """
    device = plans[0].device
    candidates = itertools.chain.from_iterable(p.candidates if isinstance(p, Plan) else p.ways for p in plans)
    record = environment.describe(device, ", ".join(dict.fromkeys(candidate.backend for candidate in candidates)))
    record |= {"command": environment.command(), "started": records.now()}
    record |= {"load_before": os.getloadavg(), "kernels_cached": kernels_cached(), "machine": environment.examine()}
    result = {"rows": [], "operators": [], "environment": record}
    watch = StopWatch(device)
    for number, one in enumerate(plans, 1):

        def tell(text: str, *rest: Any, number: int = number) -> None:
            if on_progress:
                on_progress(f"{number} of {len(plans)}, {text}" if len(plans) > 1 else text, *rest)

        measure, kind = (networks, "rows") if isinstance(one, Plan) else (scans, "operators")
        for rows in measure(one, watch, tell):
            result[kind] += rows
            record |= {"load_after": os.getloadavg(), "finished": records.now()}
            keep(result)
    return result


def is_wrong(result: dict[str, Any]) -> bool:
    """Whether something computed another result, or failed as nobody foresees."""
    return any(row["status"] in WRONG for row in result["rows"] + result["operators"])


def kernels_cached() -> int:
    """Folders in Triton's cache: where there are some, a first call may find its kernels compiled."""
    folder = Path(os.environ.get("TRITON_CACHE_DIR", Path.home() / ".triton" / "cache"))
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def scans(plan: kernels.Plan, watch: StopWatch, tell: Progress) -> Iterator[list[dict[str, Any]]]:
    """The rows of each case in turn."""
    each = plan.rounds * len(plan.ways)
    with torch.cuda.device(plan.device) if plan.device.type == "cuda" else nullcontext():
        for number, case in enumerate(plan.cases):
            trial = kernels.Trial(case, plan.ways, plan.device, watch)
            done, total = number * each, len(plan.cases) * each
            yield trial.run(plan.rounds, lambda text, d=done, n=total: tell(text, d, n, f"case {d // each + 1}"))
            del trial
            gc.collect()


def networks(plan: Plan, watch: StopWatch, report: Progress) -> Iterator[list[dict[str, Any]]]:
    """The rows of each mode and batch in turn; the sizes of one take turns within it."""
    forecast = Forecast(plan)
    counts: dict[tuple, tuple[int | None, str | None]] = {}

    def macs(candidate: Candidate, point: Point) -> tuple[int | None, str | None]:
        key = candidate.variant, point.size
        if key not in counts:
            counts[key] = count(candidate, plan.task, point.size)
        number, reason = counts[key]
        return None if number is None else number * point.batch, reason

    def tell(text: str) -> None:
        report(text, forecast.done, forecast.total, forecast.text())

    for _, sweep in itertools.groupby(plan.points, lambda point: (point.mode, point.batch)):
        comparisons = [Comparison(plan, point, watch) for point in sweep]
        with circumstances(plan, comparisons[0].point):
            for comparison, entry in (both := [(c, e) for c in comparisons for e in c.entries]):
                tell(f"{comparison.point.name}: checking {' '.join(entry.candidate.how)}")
                comparison.prepare(entry)
            for number in range(plan.rounds):
                for comparison, entry in both:
                    tell(f"{comparison.point.mode} x{comparison.point.batch}: round {number + 1}")
                    comparison.read(entry)
                    forecast.read(comparison.point, entry)
            for comparison in comparisons:
                comparison.finish()
        rows = []
        for comparison in comparisons:
            tell(f"{comparison.point.name}: counting multiply-adds")
            rows += comparison.rows(macs)
        del comparison, comparisons, both, entry
        gc.collect()
        yield rows


@contextmanager
def circumstances(plan: Plan, point: Point) -> Iterator[None]:
    """The device, and in training what `runner.py run` trains with: the fastest algorithms, not deterministic ones."""
    with ExitStack() as stack:
        if plan.device.type == "cuda":
            stack.enter_context(torch.cuda.device(plan.device))
        if point.mode == "training":
            stack.enter_context(determinism(False))
        yield


def count(candidate: Candidate, task: Task, size: tuple[int, int]) -> tuple[int | None, str | None]:
    """(multiply-adds of one image forward, None), or (None, why there is no count)."""
    try:
        from suites.benchmark import cost
    except ImportError as error:
        return None, f"{error.name} is not installed"
    output = tuple(side * task.scale for side in size)
    return cost.complexity(candidate.model, task, output, **candidate.overrides)["macs"], None


class Forecast:
    """Time left of a plan, by a candidate's latest reading at a point, or at another of its mode by the pixels."""

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
    """A bar with what is measured now and the time left; where there is no terminal, a line now and then."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[left]}"))
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.bar, self.line_due = self.add_task("starting", total=None, left=""), 0.0

    def __call__(self, text: str, done: int, total: int, left: str) -> None:
        self.update(self.bar, description=text, completed=done, total=total, left=left)
        if self.disable and time.monotonic() >= self.line_due:
            self.line_due = time.monotonic() + LINE_S
            self.console.print(f"[{done}/{total}] {text}; {left}", markup=False, highlight=False, soft_wrap=True)
