"""One network, measured at one point after the other, in the process that is its own.

What is timed was checked. First, once for every mode, precision and backend, at a size where that is quick: against the
plain network in float64, with the order of the scan given and with its own. Then the very output that was timed, at
its own size: against our own float32 kernels, which were checked in the same way (a precision of float32 against the
other one, `tf32x3` against `fp32`), on a CPU up to CHUNKED against the plain network with the scan in chunks. A peer,
which has no kernels of ours, is compared in bf16 with its own float32, and in float32 at the small size alone. Where
there is nothing to compare with, the output must be finite, and the row says so.
"""

import copy
import gc
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.ops.common.dispatch import without_kernels
from models.ops.noise import PhiloxGumbel
from suites.benchmark.comparison import Entry
from suites.benchmark.model import LIMITS, BenchmarkModel
from suites.benchmark.sweep.peers import PEERS, PeerNetwork
from suites.benchmark.sweep.points import FULL_HD, Point, task_of
from suites.benchmark.timing import StopWatch, quantiles
from suites.training.step import determinism

SMALL = {"inference": ((64, 64), 1), "training": ((32, 32), 2)}  # where float64 is quick
READINGS = 20  # at most
FEWEST = 5  # and at least, but of calls as long as
LONG_MS = 1000.0
FEWEST_LONG = 3
CHUNKED = 128 * 128  # pixels up to which the scan in chunks takes a CPU less than the readings do
PASSES, FEWEST_PASSES = 5, 2  # over a set of pictures
SPENT_S = {"cuda": 0.5, "cpu": 6.0}  # on the readings of a point, where more than the fewest are wanted


@dataclass
class Subject:
    """A network in a mode: made once, then given every size in turn."""

    point: Point  # the first that is measured
    device: torch.device
    watch: StopWatch
    model: BenchmarkModel = field(init=False)
    small: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    exact: dict[bool, list[Tensor]] = field(default_factory=dict)  # of the small size, by whether the order is given
    reference: tuple[tuple, list[Tensor]] | None = None  # of the size that was measured last
    last: Tensor | None = None  # what the last call returned

    def __post_init__(self) -> None:
        point, task = self.point, task_of(self.point)
        peer = PEERS.get(point.subject)
        own = PeerNetwork(peer, task.scale) if peer else None
        overrides = {} if own else {**point.overrides, "routing": "gumbel"}
        size, batch = SMALL[point.mode]
        name = point.model
        self.model = BenchmarkModel(name, overrides, task, point.mode, size, batch, self.device, own)

    @property
    def params(self) -> int:
        peer = PEERS.get(self.point.subject)
        network = self.model.network
        return peer.parameters(network) if peer else sum(p.numel() for p in network.parameters())

    # --- checks --------------------------------------------------------------------------------------------------

    def prove(self, point: Point) -> dict[str, Any]:
        """Whether precision and backend of `point` compute the network, at the small size. Fails no call: says so."""
        how = point.precision, point.backend
        if how not in self.small:
            task, (size, batch) = task_of(point), SMALL[point.mode]
            self.reference = None
            self.model.take(task, size, batch)
            limits = LIMITS[point.mode, point.precision]
            exact = "float64" if point.mode == "inference" else "float32, scan in chunks"
            found: dict[str, Any] = {"reference": f"plain network in {exact}", "size": "{}x{}".format(*size)}
            found |= {"batch": batch, "limits": vars(limits), "ok": True}
            for given in (True, False) if self.model.labels is not None else (False,):
                tolerance, needed = limits.of(given)
                result = self.model.result(*how, "eager", given)
                share = agreement(result, self.exactly(given), tolerance)
                found["share_given" if given else "share_free"] = share
                found["ok"] = found["ok"] and share >= needed
            self.small[how] = found
        return self.small[how]

    def exactly(self, given: bool) -> list[Tensor]:
        """The result at the small size: the plain network's, in float64, of a training step in float32."""
        if given not in self.exact:
            model = self.model
            if model.mode == "training":
                self.exact[given] = model.reference(given)
                return self.exact[given]
            network = copy.deepcopy(model.network).double()
            if self.point.subject not in PEERS:
                network.backend = "chunked"
            if model.can.routed:
                network.noise = PhiloxGumbel(model.batch.keys)
            with without_kernels(), torch.no_grad():
                output = network(model.batch.lq.double(), *([model.labels] if given else []))
            self.exact[given] = [output.cpu()]
        return self.exact[given]

    def other(self, point: Point) -> tuple[str, str, str] | None:
        """(precision, backend, in words) of what the timed output is compared with at its own size."""
        if point.subject in PEERS:
            return None if point.precision == "fp32" else ("fp32", "none", "the same network in float32")
        if self.device.type == "cpu":
            quick = point.pixels <= CHUNKED
            return ("fp32", "chunked", "plain network in float32, scan in chunks") if quick else None
        precision = "tf32x3" if point.precision == "fp32" else "fp32"
        return precision, "triton", f"our kernels in {precision}"

    def compare(self, point: Point, found: list[Tensor]) -> dict[str, Any]:
        """Agreement of the timed output with another way of computing it at the same size and noise."""
        limits = LIMITS[point.mode, point.precision]
        finite = all(bool(x.isfinite().all()) for x in found)
        if (other := self.other(point)) is None:
            return {"reference": None, "finite": finite, "ok": finite}
        precision, backend, words = other
        key = point.height, point.width, point.batch, precision, backend
        if self.reference is None or self.reference[0] != key:
            self.reference = None
            with without_kernels(self.device.type == "cpu"):
                self.call(precision, backend, "eager")
            self.reference = key, self.outputs(point, "eager")
        share = agreement(found, self.reference[1], limits.free)
        told = {"reference": words, "finite": finite, "share_free": share, "limit": limits.free}
        told["share_strict"] = agreement(found, self.reference[1], limits.given)
        return told | {"ok": finite and share >= limits.free_share}

    def outputs(self, point: Point, launch: str) -> list[Tensor]:
        """What the last call left: its output, or the gradients of a step."""
        if point.mode == "inference":
            return [self.last]
        graph = self.model.graphs.get((point.precision, point.backend, False)) if launch == "graph" else None
        gradients = graph.gradients if graph else [p.grad for p in self.model.network.parameters()]
        return [x.clone() for x in gradients if x is not None]

    # --- a point ---------------------------------------------------------------------------------------------------

    def measure(self, point: Point, proved: dict[str, Any] | None = None) -> dict[str, Any]:
        """The row of a point, without what the driver adds. Whatever goes wrong is a row that says so.

        proved: the check at the small size, where another process has made it on this machine with this code.
        """
        if proved is not None:
            self.small.setdefault((point.precision, point.backend), proved)
        row: dict[str, Any] = {"status": "ok", "reason": None, "params": self.params}
        fastest = determinism(False) if point.mode == "training" else nullcontext()  # as `run` trains
        try:
            with fastest:
                self._measure(point, row)
        except Exception as error:  # Triton's and the compiler's share no class; the row shows it, and the rest goes on
            entry = Entry(None)
            entry.fail(error)
            row |= {"status": entry.status, "reason": entry.reason}
            self.reference = None
        if row["status"] != "ok":
            row |= dict.fromkeys(("median_ms", "p10_ms", "p90_ms", "peak_mib", "pool_mib"))
        self.last = None
        self.model.graphs.clear()
        self.free()
        return row

    def _measure(self, point: Point, row: dict[str, Any]) -> None:
        start = time.perf_counter()
        row["check"] = {"small": self.prove(point)}
        checked = time.perf_counter() - start
        if not row["check"]["small"]["ok"]:
            row |= {"status": "differs", "reason": "the result differs from float64's at the small size"}
            return
        start = time.perf_counter()
        if self.reference is None or self.reference[0][:3] != (point.height, point.width, point.batch):
            self.reference = None
            self.free()
            self.model.take(task_of(point), (point.height, point.width), point.batch)
        how = point.precision, point.backend, point.launch
        first = self.timed(lambda: self.call(*how))
        row["first_call_s"] = first
        times, calls = self.of_pictures(point, row) if point.pictures else self.readings(point, row)
        row |= {"times_ms": times, "runs": len(times), "calls_per_run": calls, **quantiles(times)}
        row["measure_s"] = time.perf_counter() - start
        found = self.outputs(point, point.launch)
        start = time.perf_counter()
        row["check"]["here"] = self.compare(point, found)
        row["check"]["seconds"] = checked + time.perf_counter() - start
        if not row["check"]["here"]["ok"]:
            row |= {"status": "differs", "reason": "the timed result differs at this size: see its check"}
        elif point.mode == "inference" and (point.height, point.width) == FULL_HD and self.device.type == "cuda":
            row |= self.moved(point)  # one more call, at the size that every network of the roofline is compared at

    def readings(self, point: Point, row: dict[str, Any]) -> tuple[list[float], int]:
        """Milliseconds of each reading, and calls in one. Notes the memory, and on a CPU the processor's time of a
        call, in which others' work on the same cores is not counted."""
        how, times, calls, others = (point.precision, point.backend, point.launch), [], 1, None
        wait = point.launch != "graph"
        row |= {"peak_mib": None, "pool_mib": None}
        if self.device.type == "cpu":
            calls = self.watch.calls(self.watch.read(lambda: self.call(*how)))
        elif point.launch == "graph":
            graph = self.model.graphs[point.precision, point.backend, False]
            row |= {"peak_mib": graph.peak_mib, "pool_mib": graph.pool_mib}
        else:
            others = self.others()
        spent, limit, worked = 0.0, SPENT_S[self.device.type], []
        while len(times) < READINGS:
            before = time.process_time()
            times.append(self.watch.read(lambda: self.call(*how), calls, wait))
            if others is not None:
                row["peak_mib"], others = (torch.cuda.max_memory_allocated(self.device) - others) / 2**20, None
            worked.append((time.process_time() - before) * 1e3 / calls)
            spent += times[-1] * calls / 1e3
            enough = FEWEST_LONG if times[-1] >= LONG_MS else FEWEST
            if spent >= limit and len(times) >= enough:
                break
        row["cpu_ms"] = statistics.median(worked) if self.device.type == "cpu" else None
        return times, calls

    def of_pictures(self, point: Point, row: dict[str, Any]) -> tuple[list[float], int]:
        """Milliseconds of a picture, the mean of a set, once for every pass over it; and calls in a reading. The first
        pass is not timed. Ends with the largest picture, whose output is compared and whose memory is noted."""
        how, task, means, spent, worked = (point.precision, point.backend, point.launch), task_of(point), [], 0.0, []
        row |= {"peak_mib": None, "pool_mib": None, "of_pictures": len(point.sizes)}
        for number in range(1 + PASSES):
            times, processor = [], 0.0
            for size in point.sizes:
                self.last = None
                self.model.take(task, size, point.batch)
                others = self.others() if self.device.type == "cuda" else 0
                before = time.process_time()
                times.append(self.watch.read(lambda: self.call(*how)))
                processor += time.process_time() - before
            if self.device.type == "cuda":
                row["peak_mib"] = (torch.cuda.max_memory_allocated(self.device) - others) / 2**20
            if number:
                means.append(statistics.fmean(times))
                worked.append(processor * 1e3 / len(times))
                spent += sum(times) / 1e3
            if len(means) >= FEWEST_PASSES and spent >= SPENT_S[self.device.type]:
                break
        row["cpu_ms"] = statistics.median(worked) if self.device.type == "cpu" else None
        return means, 1

    def call(self, *how: str) -> None:
        self.last = self.model.call(*how)

    def timed(self, work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def others(self) -> int:
        """Bytes of tensors that are no part of a call: the most of what comes now, less these, is the call's memory,
        weights and input included."""
        self.last = None
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device) - self.model.bytes()

    def moved(self, point: Point) -> dict[str, Any]:
        """`bytes` that a call moves if every operator reads its inputs once and writes its results once; where they
        cannot be counted, `bytes_reason`. The whole scan is one operator to PyTorch, as it is one kernel here; with
        mamba_ssm it is several, which gather and scatter besides."""
        if point.backend == "mamba_ssm":
            return {"bytes": None, "bytes_reason": "what mamba_ssm moves within the scan is not seen"}
        try:
            with Traffic() as traffic:
                self.model.call(point.precision, point.backend, "eager")
        except Exception as error:  # what was timed before stays
            return {"bytes": None, "bytes_reason": f"{type(error).__name__}: {str(error)[:200]}"}
        return {"bytes": traffic.bytes}

    def free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def agreement(found: list[Tensor], expected: list[Tensor], tolerance: float) -> float:
    """As suites.benchmark.model.agreement, on the device of `expected` and in its type."""
    within = total = 0
    for a, b in zip(found, expected, strict=True):
        a = a.to(b.device, b.dtype)
        if not a.isfinite().all():
            return 0.0
        within += int(((a - b).abs() <= tolerance * b.square().mean().sqrt()).sum())
        total += b.numel()
    return within / total


class Traffic(TorchDispatchMode):
    """Adds up the bytes of the tensors that operators read and write; views and empty tensors move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {id(x): x for x in _tensors((args, kwargs or {}))}
        made = {id(x): x for x in _tensors(result)}
        places = {x.untyped_storage().data_ptr() for x in given.values()}
        is_view = all(x.untyped_storage().data_ptr() in places for x in made.values())
        is_view = is_view and function.namespace == "aten" and not function._schema.is_mutable
        if not is_view and "empty" not in function._schema.name:
            self.bytes += sum(x.numel() * x.element_size() for x in (given | made).values())
        return result


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [x for item in value for x in _tensors(item)] if isinstance(value, (list, tuple)) else []
