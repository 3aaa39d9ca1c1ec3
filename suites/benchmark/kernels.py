"""The attentive scan alone, measured as networks are: backends take turns, each checked before it is timed.

A case is one direction in float32, sorted by random classes, with prompts: what one layer asks for, the gather by the
order and the scatter included. Forward alone runs without gradients. The result and, with the backward pass, every
gradient are compared with float64 (by the backend "chunked", a few channels at a time): relative error by norm.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.ops import scan
from suites.benchmark.comparison import WARM, Entry
from suites.benchmark.launch_modes import MeasuredGraph
from suites.benchmark.timing import StopWatch, quantiles, ratio

TOLERANCE = 2e-5  # relative error by norm
CLASSES = 64
SLICE = 48  # channels that float64 takes at a time
MODES = ("forward", "forward+backward")


@dataclass(frozen=True)
class ScanCase:
    """mode: one of MODES. length: L pixels of each of `batch` images with `channels` E and `states` N."""

    mode: str
    batch: int
    channels: int
    states: int
    length: int

    @property
    def name(self) -> str:
        return f"scan {self.mode}, B{self.batch} D{self.channels} N{self.states} L{self.length}"


@dataclass(frozen=True)
class ScanCandidate:
    """Who scans: a backend, launched as suites.benchmark.launch_modes says."""

    backend: str
    launch: str
    precision: str = "fp32"


@dataclass(frozen=True)
class Tensors:
    """Arguments of `models.ops.scan.attentive_scan`, and `grad`, the gradient [B, 1, L, E] of its result."""

    u: Tensor  # [B, L, E]
    delta: Tensor  # [B, 1, L, E]
    A: Tensor  # [1, E, N]
    B: Tensor  # [B, 1, L, N]
    C: Tensor  # [B, 1, L, N]
    D: Tensor  # [1, E]
    bias: Tensor  # [1, E]
    table: Tensor  # [T, N]
    classes: Tensor  # int64 [B, L]
    order: Tensor  # int64 [B, 1, L]
    grad: Tensor

    def channels(self, chosen: slice) -> "Tensors":
        """The same scan of some channels, in float64."""
        cut = {name: getattr(self, name)[..., chosen] for name in ("u", "delta", "D", "bias", "grad")}
        cut |= {"A": self.A[:, chosen], "B": self.B, "C": self.C, "table": self.table}
        return Tensors(**{k: x.double() for k, x in cut.items()}, classes=self.classes, order=self.order)


def random_inputs(case: ScanCase, device: torch.device) -> Tensors:
    """Random inputs: steps of about softplus(-4), decays of random rates, classes drawn evenly."""
    g = torch.Generator(device).manual_seed(0)
    b, l, e, n = case.batch, case.length, case.channels, case.states
    shapes = [(b, l, e), (b, 1, l, e), (1, e, n), *[(b, 1, l, n)] * 2, (1, e), (1, e), (CLASSES, n), (b, 1, l, e)]
    u, delta, A, B, C, D, bias, table, grad = (torch.randn(shape, generator=g, device=device) for shape in shapes)
    classes = torch.randint(CLASSES, (b, l), generator=g, device=device)
    order = classes.argsort(dim=-1, stable=True).unsqueeze(1)
    return Tensors(u, delta - 4, -A.exp(), B, C, D, bias, table, classes, order, grad)


def scanned(tensors: Tensors, backend: str, trains: bool) -> list[Tensor]:
    """[y], or y and the gradients of u, delta, A, B, C, D, bias, table. Raises BackendError as the scan does."""
    t = tensors
    inputs = (t.u, t.delta, t.A, t.B, t.C, t.D, t.bias, t.table)
    leaves = [x.detach().requires_grad_(trains) for x in inputs]
    with torch.set_grad_enabled(trains):
        prompt = scan.Prompt(leaves[-1], t.classes)
        y = scan.attentive_scan(*leaves[:-1], order=t.order, prompt=prompt, backend=backend)
    return [y.detach(), *torch.autograd.grad(y, leaves, t.grad)] if trains else [y]


def exact(tensors: Tensors, trains: bool) -> list[Tensor]:
    """What `scanned` returns, in float64."""
    total: list[Tensor] = []
    e = tensors.u.shape[-1]
    for start in range(0, e, SLICE):
        part = scanned(tensors.channels(slice(start, start + SLICE)), "chunked", trains)
        total = join(total, part) if total else part
    return total


def join(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Results of two sets of channels as one: (y, du, ddelta, dA, dB, dC, dD, dbias, dtable), or (y,)."""
    along = (-1, -1, -1, 1, None, None, -1, -1, None)  # None: shared by all channels, so the gradients add up
    return [x + y if dim is None else torch.cat([x, y], dim) for x, y, dim in zip(a, b, along, strict=False)]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """By norm, in float64; infinite where something is not finite."""
    if not found.isfinite().all():
        return float("inf")
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


@dataclass(frozen=True)
class ScanPlan:
    """Cases, and the candidates that take turns at each; ratios are to the first."""

    cases: tuple[ScanCase, ...]
    candidates: tuple[ScanCandidate, ...]
    rounds: int
    device: torch.device


class ScanComparison:
    """The candidates of one case: checked, timed in rounds that all share, and checked once more."""

    def __init__(
        self, case: ScanCase, candidates: Sequence[ScanCandidate], device: torch.device, watch: StopWatch
    ) -> None:
        self.case, self.device, self.watch = case, device, watch
        self.trains = case.mode == "forward+backward"
        self.entries = [Entry(candidate) for candidate in candidates]
        self.calls: dict[ScanCandidate, Callable[[], list[Tensor]]] = {}
        self.tensors: Tensors | None = None
        self.exact: list[Tensor] = []

    def guarded(self, entry: Entry, work: Callable[[], Any]) -> Any:
        """work(), or None when it fails: the entry then says why."""
        if entry.status == "ok":
            try:
                return work()
            except Exception as error:  # as suites.benchmark.comparison does: the row shows it, and the rest goes on
                entry.fail(error)
        return None

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def run(self, rounds: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
        """A row for every candidate."""
        tell(f"{self.case.name}: in float64")
        reference = Entry(ScanCandidate("chunked", "eager"))
        self.guarded(reference, self.refer)
        for entry in self.entries:
            if self.tensors is None:
                entry.status, entry.reason = reference.status, f"the input: {reference.reason}"
            elif not self.exact:
                entry.status, entry.reason = "unchecked", f"float64: {reference.status}, {reference.reason}"
            tell(f"{self.case.name}: checking {entry.candidate.backend} {entry.candidate.launch}")
            self.guarded(entry, lambda entry=entry: self.prepare(entry))
        for number in range(rounds):
            tell(f"{self.case.name}: round {number + 1}")
            for entry in self.entries:
                self.guarded(entry, lambda entry=entry: entry.times.append(self.read(entry)))
        for entry in self.entries:
            self.guarded(entry, lambda entry=entry: self.check(entry))
        return [self.row(entry) for entry in self.entries]

    def refer(self) -> None:
        """Makes the input and the result in float64."""
        self.tensors = random_inputs(self.case, self.device)
        self.exact = exact(self.tensors, self.trains)

    def prepare(self, entry: Entry) -> None:
        """First call, check, warm-up, memory."""
        candidate, start = entry.candidate, time.perf_counter()
        scan.resolve(candidate.backend, self.device)
        work = lambda tensors: scanned(tensors, candidate.backend, self.trains)  # noqa: E731
        if candidate.launch == "graph":
            self.calls[candidate] = graph = MeasuredGraph(work, self.tensors, self.own)
            entry.peak_mib, entry.pool_mib = graph.peak_mib, graph.pool_mib
        else:
            self.calls[candidate] = lambda: work(self.tensors)
        self.calls[candidate]()
        self.wait()
        entry.first_call_s = time.perf_counter() - start
        self.check(entry)
        for _ in range(WARM):
            estimate = self.watch.read(self.calls[candidate])
        entry.calls = self.watch.calls(estimate)
        if self.device.type == "cuda" and candidate.launch != "graph":
            gc.collect()
            others = torch.cuda.memory_allocated(self.device) - self.own()
            torch.cuda.reset_peak_memory_stats(self.device)
            self.calls[candidate]()
            entry.peak_mib = (torch.cuda.max_memory_allocated(self.device) - others) / 2**20

    def read(self, entry: Entry) -> float:
        return self.watch.read(self.calls[entry.candidate], entry.calls, entry.candidate.launch != "graph")

    def own(self) -> int:
        """Bytes of the arguments."""
        return sum(x.untyped_storage().nbytes() for x in vars(self.tensors).values())

    def check(self, entry: Entry) -> None:
        found = self.calls[entry.candidate]()
        error = max(relative_error(a, b) for a, b in zip(found, self.exact, strict=True))
        entry.check = {"reference": "float64, scan in chunks", "error": error, "tolerance": TOLERANCE}
        if not error <= TOLERANCE:
            entry.status, entry.times = "differs", []
            entry.reason = f"relative error {error:.1e}, at most {TOLERANCE:.0e} is allowed"

    def row(self, entry: Entry) -> dict[str, Any]:
        candidate, timed, first = entry.candidate, entry.status == "ok", self.entries[0]
        row = {"operator": "scan", **vars(self.case), "classes": CLASSES, **vars(candidate)}
        row |= quantiles(entry.times) if timed else dict.fromkeys(("median_ms", "p10_ms", "p90_ms"))
        row |= {"peak_mib": entry.peak_mib if timed else None, "pool_mib": entry.pool_mib if timed else None}
        row |= {"status": entry.status, "reason": entry.reason, "first_call_s": entry.first_call_s if timed else None}
        row |= {"runs": len(entry.times), "calls_per_run": entry.calls, "times_ms": entry.times, "check": entry.check}
        row |= dict.fromkeys(("ratio", "ratio_low", "ratio_high"))
        return row | ratio(entry.times, first.times) if timed and first.status == "ok" else row
