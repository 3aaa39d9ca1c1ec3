"""Time and memory of networks: candidates are timed alternately in one process, each checked before it is timed.

A point is a mode, an input size and a batch. At every point the candidates (a model in a precision, with a scan
backend, in a launch mode) are compared (`suites.benchmark.comparison`): each is called, checked and warmed up, then all
are timed in rounds, then each is checked again. A round goes through the candidates at the first size, A B C, then at
the next size, so a machine that becomes slower does so for all candidates and all sizes. Ratios are to the first
candidate, within rounds. The scan alone is measured in the same way (`suites.benchmark.kernels`).
"""

import gc
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from results import records
from suites import environment
from suites.benchmark.comparison import Candidate, Comparison, Plan, Point
from suites.benchmark.kernels import ScanComparison, ScanPlan
from suites.benchmark.progress import Forecast
from suites.benchmark.timing import StopWatch
from suites.spec import Task
from suites.training.step import determinism

WRONG = ("differs", "failed")  # statuses that make the exit status 1
Progress = Callable[[str, int, int, str], None]  # (what is done now, readings taken, readings in all, time left)


def run(
    plans: Sequence[Plan | ScanPlan],
    on_progress: Progress | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """{"rows": a row per candidate and point, "operators": one per candidate and case, "environment"}, JSON-able.

    keep: called with everything so far whenever rows are added, so that a run that is killed leaves what it measured.
    """
    device = plans[0].device
    candidates = itertools.chain.from_iterable(one.candidates for one in plans)
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
    """Whether a candidate computed a wrong result or failed for another reason than memory or missing support, or
    nothing could be timed at all."""
    statuses = [row["status"] for row in result["rows"] + result["operators"]]
    return any(status in WRONG for status in statuses) or "ok" not in statuses


def kernels_cached() -> int:
    """Number of folders in Triton's cache. If there are some, kernels may be compiled already at the first call."""
    folder = Path(os.environ.get("TRITON_CACHE_DIR", Path.home() / ".triton" / "cache"))
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def scans(plan: ScanPlan, watch: StopWatch, tell: Progress) -> Iterator[list[dict[str, Any]]]:
    """The rows of each case in turn."""
    each = plan.rounds * len(plan.candidates)
    with torch.cuda.device(plan.device) if plan.device.type == "cuda" else nullcontext():
        for number, case in enumerate(plan.cases):
            comparison = ScanComparison(case, plan.candidates, plan.device, watch)
            done, total = number * each, len(plan.cases) * each
            yield comparison.run(plan.rounds, lambda text, d=done, n=total: tell(text, d, n, f"case {d // each + 1}"))
            del comparison
            gc.collect()


def networks(plan: Plan, watch: StopWatch, report: Progress) -> Iterator[list[dict[str, Any]]]:
    """The rows of each mode and batch in turn; all sizes of one are timed in common rounds."""
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
        with settings_of(plan, comparisons[0].point):
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
def settings_of(plan: Plan, point: Point) -> Iterator[None]:
    """Within: the plan's device is the current one, and training uses the fastest algorithms, as `runner.py run` does
    without --deterministic."""
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
    if candidate.own is not None:
        try:
            return cost.complexity(candidate.model, task, output, candidate.own)["macs"], None
        except Exception as error:  # whatever a user's network does at a size that it is traced at
            return None, f"it cannot be traced: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return cost.complexity(candidate.model, task, output, **candidate.overrides)["macs"], None
