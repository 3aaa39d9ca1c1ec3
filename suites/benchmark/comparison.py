"""Candidates compared at one point: each is checked, then all are timed in common rounds, then each is checked again.

A candidate that cannot run, runs out of memory or computes something else has a row without a time; the rest goes on.
"""

import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import models
from models.ops.scan import BackendError
from results.published import parse_overrides
from suites.benchmark.model import LIMITS, BenchmarkModel, agreement
from suites.benchmark.timing import StopWatch, quantiles, ratio
from suites.network_file import NetworkFile
from suites.spec import Task

WARM = 2  # calls between the first one and the timed ones; the last of them tells how long a call takes
CHECKS = 2  # calls after the timed ones
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def too_large(text: str) -> str:
    """PyTorch's words on memory that it was not given, as a sentence."""
    asked = re.search(r"tried to allocate ([\d.]+) (bytes|[KMGT]iB)", text, re.IGNORECASE)
    if asked is None:
        return text[:200]
    size = f"{float(asked[1]) / 2**30:,.1f} GiB" if asked[2] == "bytes" else f"{asked[1]} {asked[2]}"
    return f"{size} more did not fit into the memory; try smaller --sizes or a smaller --batch"


@dataclass(frozen=True)
class Candidate:
    """What is compared at a point. variant: a catalogue model, overrides after it: "mambairv2-light scans=4"; or what
    `own`, a user's network, is called."""

    variant: str
    precision: str
    backend: str
    launch: str = "eager"  # or another of suites.benchmark.launch_modes
    own: NetworkFile | None = None

    @property
    def model(self) -> str:
        return self.variant.split()[0]

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.own.arguments) if self.own else parse_overrides(self.variant.partition(" ")[2])

    @property
    def how(self) -> tuple[str, str, str]:
        return self.precision, self.backend, self.launch


@dataclass(frozen=True)
class Point:
    """Where candidates are compared. size: (height, width) of the network's input."""

    mode: str
    size: tuple[int, int]
    batch: int

    @property
    def name(self) -> str:
        return f"{self.mode} {self.size[0]}x{self.size[1]} x{self.batch}"

    @property
    def pixels(self) -> int:
        """Input pixels of one call."""
        return self.size[0] * self.size[1] * self.batch


@dataclass(frozen=True)
class Plan:
    candidates: tuple[Candidate, ...]
    points: tuple[Point, ...]
    task: Task
    routing: str
    rounds: int
    device: torch.device


@dataclass
class Entry:
    """A candidate at a point, with its status and readings so far."""

    candidate: Candidate
    status: str = "ok"  # or "oom", "differs", "unavailable", "failed", "unchecked"
    reason: str | None = None
    first_call_s: float | None = None
    peak_mib: float | None = None
    pool_mib: float | None = None  # what a graph holds as long as it lives
    check: dict[str, Any] | None = None
    calls: int = 1
    times: list[float] = field(default_factory=list)

    def fail(self, error: Exception) -> None:
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in text for part in NO_MEMORY):
            self.status, self.reason = "oom", too_large(text)
        elif isinstance(error, models.ModelError | BackendError):
            self.status, self.reason = "unavailable", text
        else:
            self.status, self.reason = "failed", f"{type(error).__name__}: {text[:300]}"
        self.times = []


class Comparison:
    """The candidates of a plan at one of its points."""

    def __init__(self, plan: Plan, point: Point, watch: StopWatch) -> None:
        self.plan, self.point, self.watch = plan, point, watch
        self.entries = [Entry(candidate) for candidate in plan.candidates]
        self.models: dict[str, BenchmarkModel] = {}
        self.references: dict[tuple[str, bool], list[Tensor]] = {}

    def guarded(self, entry: Entry, work: Callable[[], Any]) -> Any:
        """work(), or None when it fails or failed before; the entry then says why, and its memory is freed."""
        if entry.status != "ok":
            return None
        try:
            return work()
        except Exception as error:  # Triton's and the compiler's share no class; the row shows it, and the rest goes on
            entry.fail(error)
        self.clear()
        return None

    def clear(self) -> None:
        gc.collect()
        if self.plan.device.type == "cuda":
            torch.cuda.empty_cache()

    def prepare(self, entry: Entry) -> None:
        """Makes the model and its reference, makes the first call, checks, warms up and measures peak memory."""
        if (model := self.guarded(entry, lambda: self.model(entry.candidate))) is None:
            return
        if entry.status == "ok" and not self.refer(entry, model):
            return
        how = entry.candidate.how
        start = time.perf_counter()
        if self.guarded(entry, lambda: (model.call(*how), self.wait())) is None:
            return
        entry.first_call_s = time.perf_counter() - start
        self.check(entry, model)
        self.guarded(entry, lambda: self.warm(entry, model))

    def model(self, candidate: Candidate) -> BenchmarkModel:
        if candidate.variant not in self.models:
            plan, point = self.plan, self.point
            overrides = {**candidate.overrides, "routing": plan.routing}
            where = (point.mode, point.size, point.batch, plan.device)
            made = BenchmarkModel(candidate.model, overrides, plan.task, *where, candidate.own)
            self.models[candidate.variant] = made
        return self.models[candidate.variant]

    def refer(self, entry: Entry, model: BenchmarkModel) -> bool:
        """Computes the reference, on the CPU where the GPU's memory is too small; whether there is one."""
        if (entry.candidate.variant, False) in self.references:
            return True
        trial = Entry(entry.candidate)
        found = self.guarded(trial, lambda: [model.reference(given) for given in (True, False)])
        if trial.status == "oom" and self.plan.device.type == "cuda" and not model.random_in_training:
            trial = Entry(entry.candidate)
            on_host = Comparison(replace(self.plan, device=torch.device("cpu")), self.point, self.watch)
            found = self.guarded(
                trial, lambda: [on_host.model(entry.candidate).reference(given) for given in (True, False)]
            )
        if found is None:
            entry.status, entry.reason = "unchecked", f"the float32 reference: {trial.status}, {trial.reason}"
            return False
        self.references |= {(entry.candidate.variant, given): x for given, x in zip((True, False), found, strict=True)}
        return True

    def wait(self) -> bool:
        if self.plan.device.type == "cuda":
            torch.cuda.synchronize(self.plan.device)
        return True

    def check(self, entry: Entry, model: BenchmarkModel) -> None:
        """Compares both results with the reference; a candidate that disagrees is not timed."""
        limits = LIMITS[self.point.mode, entry.candidate.precision]
        entry.check = {"reference": "plain network, float32, scan in chunks", "limits": vars(limits)}
        for given in (True, False):
            found = self.guarded(
                entry, lambda given=given: model.result(*entry.candidate.how, given and model.labels is not None)
            )
            if found is None:
                return
            tolerance, needed = limits.of(given)
            share = agreement(found, self.references[entry.candidate.variant, given], tolerance)
            entry.check["share_given" if given else "share_free"] = share
            if share < needed:
                order = "the order given" if given else "its own order"
                entry.status, entry.times = "differs", []
                entry.reason = f"{share:.2%} of values within {tolerance:g} with {order}, {needed:.1%} needed"
                return

    def warm(self, entry: Entry, model: BenchmarkModel) -> None:
        for _ in range(WARM):
            estimate = self.watch.read(lambda: model.call(*entry.candidate.how))
        entry.calls = self.watch.calls(estimate)
        if entry.candidate.launch == "graph":
            graph = model.graphs[*entry.candidate.how[:2], False]
            entry.peak_mib, entry.pool_mib = graph.peak_mib, graph.pool_mib
        elif self.plan.device.type == "cuda" and entry.candidate.launch != "tiles":  # their graph holds its memory
            device, own = self.plan.device, model.bytes()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            others = torch.cuda.memory_allocated(device) - own
            model.call(*entry.candidate.how)
            entry.peak_mib = (torch.cuda.max_memory_allocated(device) - others) / 2**20

    def read(self, entry: Entry) -> None:
        """One reading of a candidate whose status is "ok"; of another, nothing."""

        def reading() -> float:
            model, how = self.models[entry.candidate.variant], entry.candidate.how
            return self.watch.read(lambda: model.call(*how), entry.calls, entry.candidate.launch != "graph")

        if (milliseconds := self.guarded(entry, reading)) is not None:
            entry.times.append(milliseconds)

    def finish(self) -> None:
        """Checks every candidate once more, now that it was timed."""
        for entry in self.entries:
            if entry.status == "ok":
                model = self.models[entry.candidate.variant]
                model.reset_weights()
                self.check(entry, model)

    def rows(self, macs: Callable[[Candidate, Point], tuple[int | None, str | None]]) -> list[dict[str, Any]]:
        return [self.row(entry, *macs(entry.candidate, self.point)) for entry in self.entries]

    def row(self, entry: Entry, macs: int | None, macs_reason: str | None) -> dict[str, Any]:
        candidate, point, task = entry.candidate, self.point, self.plan.task
        timed = entry.status == "ok"
        blank = dict.fromkeys(("median_ms", "p10_ms", "p90_ms"))
        row = {"model": candidate.model, "overrides": candidate.overrides, "task": task.name}
        row |= {"source": candidate.own.key()["source"]} if candidate.own else {}
        row |= {"height": point.size[0], "width": point.size[1], "batch": point.batch, "mode": point.mode}
        row |= {"precision": candidate.precision, "backend": candidate.backend, "launch": candidate.launch}
        row |= {"routing": self.plan.routing, **(quantiles(entry.times) if timed else blank)}
        row |= {"peak_mib": entry.peak_mib if timed else None, "peak_mib_reason": None}
        row["pool_mib"] = entry.pool_mib if timed else None
        if self.plan.device.type != "cuda":
            row["peak_mib_reason"] = "only a GPU tells what tensors take"
        row |= {"status": entry.status, "reason": entry.reason, "first_call_s": entry.first_call_s if timed else None}
        row |= {"runs": len(entry.times), "calls_per_run": entry.calls, "times_ms": entry.times}
        seconds = row["median_ms"] / 1e3 if timed else None
        row["images_per_s"] = point.batch / seconds if timed else None
        row["megapixels_per_s"] = point.pixels * task.scale**2 / 1e6 / seconds if timed else None
        row |= {"macs": macs, "macs_reason": macs_reason, "check": entry.check}
        first = self.entries[0]
        row |= dict.fromkeys(("ratio", "ratio_low", "ratio_high"))
        return row | ratio(entry.times, first.times) if timed and first.status == "ok" else row
