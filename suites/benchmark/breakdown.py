"""Where the time of a network goes: the GPU's kernels within one call, by torch.profiler.

It profiles the networks that `profile --preset goals` times as CUDA graphs; each is checked first, as there. It is a
command of its own because a profiler slows down what is timed after it in the same process.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from results import records
from suites import environment
from suites.benchmark import presets
from suites.benchmark.comparison import Candidate, Comparison, Plan, Point
from suites.benchmark.profiling import settings_of
from suites.benchmark.timing import StopWatch
from suites.spec import SpecError

LONGEST_NAME = 80  # of a kernel: templates of libraries fill pages


def kernels(call: Callable[[], object], device: torch.device, calls: int) -> list[dict[str, Any]]:
    """[{"kernel", "launches", "ms"}] of one call, means over `calls`, longest first. Copies and fills are included.

    A first call is not counted: it compiles and records.
    """
    call()
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(calls):
            call()
        torch.cuda.synchronize(device)
    found = [
        {
            "kernel": event.key[:LONGEST_NAME],
            "launches": event.count / calls,
            "ms": event.self_device_time_total / 1e3 / calls,
        }
        for event in profiler.key_averages()
        if event.self_device_time_total > 0
    ]
    return sorted(found, key=lambda each: -each["ms"])


def plans(device: torch.device) -> Iterator[tuple[str, Plan]]:
    """(name, plan of one candidate) of every network of the goals that is launched as a graph."""
    for plan in presets.plans("goals", str(device), rounds=1):
        if isinstance(plan, Plan):
            for candidate in (each for each in plan.candidates if each.launch == "graph"):
                (point,) = plan.points
                one = Plan((candidate,), plan.points, plan.task, plan.routing, 1, device)
                yield f"{candidate.model}/{point.mode}/{candidate.precision}", one


def row(plan: Plan, watch: StopWatch, calls: int) -> dict[str, Any]:
    (candidate,), (point,) = plan.candidates, plan.points
    with settings_of(plan, point):
        comparison = Comparison(plan, point, watch)
        (entry,) = comparison.entries
        comparison.prepare(entry)
        found = comparison.guarded(entry, lambda: taken_apart(comparison, candidate, calls))
    return described(candidate, point, plan.task.name) | {
        "status": entry.status,
        "reason": entry.reason,
        "check": entry.check,
        "kernels": found,
    }


def taken_apart(comparison: Comparison, candidate: Candidate, calls: int) -> list[dict[str, Any]]:
    model = comparison.model(candidate)
    return kernels(lambda: model.call(*candidate.how), comparison.plan.device, calls)


def described(candidate: Candidate, point: Point, task: str) -> dict[str, Any]:
    height, width = point.size
    where = {"model": candidate.model, "task": task, "mode": point.mode, "batch": point.batch}
    where |= {"height": height, "width": width, "precision": candidate.precision}
    return where | {"backend": candidate.backend, "launch": candidate.launch}


def run(
    file: Path, device: str, *, only: str | None = None, calls: int = 5, say: Callable[[str], object] = print
) -> bool:
    """Profiles the networks `only` ("MODEL/MODE/PRECISION", several by commas; None: all). Returns whether all were ok.

    `file` gets a row per network as soon as it is known, a line about each goes to `say`. Raises SpecError for an
    unknown network, for fewer calls than one, and without a GPU.
    """
    where = torch.device(device)
    if where.type != "cuda":
        raise SpecError(f"kernels are counted on a GPU, not on {where.type}")
    if calls < 1:
        raise SpecError(f"--calls is {calls}: at least 1 is needed")
    chosen = dict(plans(where))
    names = only.split(",") if only else list(chosen)
    if unknown := [name for name in names if name not in chosen]:
        raise SpecError(f"unknown {', '.join(unknown)}: choose from {', '.join(chosen)}")
    record = environment.describe(device, "triton") | {
        "command": environment.command(),
        "started": records.now(),
        "calls": calls,
    }
    watch, rows = StopWatch(where), []
    for name in names:
        rows.append(row(chosen[name], watch, calls))
        records.write_json(file, {"rows": rows, "environment": record})
        total = sum(each["ms"] for each in rows[-1]["kernels"] or ())
        told = filter(None, (f"{rows[-1]['status']}, {total:.2f} ms in kernels", rows[-1]["reason"]))
        say(f"{name}: {'; '.join(told)}")
    return all(each["status"] == "ok" for each in rows)
