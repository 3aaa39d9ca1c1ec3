"""Kernels compiled before they are needed, by several processes, into Triton's cache.

A fresh process meets its kernels one after the other and waits for the compiler at each, over a minute in all. Here one
process walks through a training step and scored pictures of each network and launches nothing; what it would have
launched it hands to others, which compile at once and side by side. The cache is what TRITON_CACHE_DIR names; it serves
other machines of one kind as well, and a mark in it says for which networks. What is compiled: a step of the cells'
budget, batch and patch, and pictures of SIZES under their protocols.
"""

import importlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from suites import variant
from suites.data.pool import Batch
from suites.evaluation import ways
from suites.evaluation.evaluate import samples
from suites.execution import kernel_cache
from suites.progress import counted
from suites.spec import Cell, SpecError
from suites.training import step

# Of pictures that are restored, in tiles if a side has 200 or more; kernels differ by little else than the power of two
# that holds the chunks of a scan: every one has a picture here.
SMALL = ((16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 96), (96, 160), (128, 192))
SIZES = (*SMALL, (161, 240), (199, 199), (240, 240))
ALIGNED = 16  # what Triton tells apart in addresses and numbers: whether they are whole multiples of this


@dataclass(frozen=True)
class Place:
    """All that a kernel's code depends on in a tensor."""

    dtype: torch.dtype
    aligned: bool

    def data_ptr(self) -> int:
        return 0 if self.aligned else ALIGNED // 2


class Call(NamedTuple):
    """A launch, as far as it decides what is compiled; can be told to other processes."""

    module: str
    name: str
    arguments: tuple
    options: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, kernel: Any, arguments: Sequence, options: dict[str, Any]) -> "Call":
        constant = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
        names = kernel.arg_names
        given = tuple(_told(x, name in constant) for name, x in zip(names, arguments, strict=False))
        named = ((name, _told(x, name in constant or name not in names)) for name, x in options.items())
        return cls(kernel.fn.__module__, kernel.fn.__name__, given, tuple(sorted(named)))

    def compile(self) -> None:
        kernel = getattr(importlib.import_module(self.module), self.name)
        kernel.run(*self.arguments, grid=(1,), warmup=True, **dict(self.options))


def _told(value: Any, constant: bool) -> Any:
    """A tensor as its place; of a number at run time only what the compiler is told: 1, a multiple, or neither."""
    if isinstance(value, Tensor):
        return Place(value.dtype, value.data_ptr() % ALIGNED == 0)
    if constant or type(value) is not int or value == 1 or abs(value) >= 2**31:
        return value
    return ALIGNED if value % ALIGNED == 0 else ALIGNED + 1


def networks(cells: Sequence[Cell]) -> list[Cell]:
    """A cell for each different way of computing among them: seeds, rates, lengths and labels compile nothing else."""
    found: dict[str, Cell] = {}
    for cell in cells:
        if cell.variant.source is None:  # what a user's class launches is not known here
            found.setdefault(_way(cell), cell)
    return list(found.values())


def _way(cell: Cell) -> str:
    budget = cell.budget
    trained = budget.batch, budget.patch, budget.accumulate, budget.precision, budget.loss
    return repr((cell.variant.model, sorted(cell.variant.overrides.items()), cell.task, cell.protocol, trained))


def built(cell: Cell, device: str) -> tuple[nn.Module, nn.Module]:
    """The cell's network as it trains and as it is scored, all zeros: which kernels run does not depend on values."""
    with torch.device("meta"):
        trained = variant.build(cell.variant, cell.task).train()
        scored = ways.scored_network(cell, "auto").eval()
    for network in (trained, scored):
        network.to_empty(device=device)
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.detach().zero_()
    return trained, scored


def walk(cell: Cell, trained: nn.Module, scored: nn.Module, device: str) -> None:
    """A training step of the cell and pictures of SIZES restored, on random data."""
    budget, task, draw = cell.budget, cell.task, np.random.default_rng(0)
    shape = budget.batch, task.channels, budget.patch, budget.patch
    lq = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last)
    gt = lq.repeat_interleave(task.scale, 2).repeat_interleave(task.scale, 3)
    labels = torch.zeros((budget.batch, budget.patch, budget.patch), dtype=torch.int64, device=device)
    keys = torch.arange(budget.batch, device=device)
    batch = Batch(lq, gt, keys, None if cell.variant.labels == "learned" else labels)
    step.optimise(trained, torch.optim.SGD(trained.parameters(), lr=0.0), batch, cell, 1)
    for size in SIZES:
        picture = draw.random((*size, task.channels), dtype=np.float32)
        list(samples(scored, picture, replace(cell.protocol, samples=1), "warm", device=device))


@contextmanager
def unlaunched(met: Callable[[Call], None]) -> Iterator[None]:
    """Kernels are not launched but given to `met`, each once; new tensors are zeros meanwhile, which are valid classes
    and pixels to whatever reads them."""
    from triton.runtime.jit import JITFunction

    run, seen = JITFunction.run, set()
    empty = torch.empty, torch.empty_like, torch.Tensor.new_empty

    def noted(self, *arguments, grid, warmup, **options) -> None:
        call = Call.of(self, arguments, options)
        if call not in seen:
            seen.add(call)
            met(call)

    torch.empty, torch.empty_like, torch.Tensor.new_empty = map(_zeroed, empty)
    JITFunction.run = noted
    try:
        yield
    finally:
        JITFunction.run = run
        torch.empty, torch.empty_like, torch.Tensor.new_empty = empty


def _zeroed(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def zeros(*arguments: Any, **options: Any) -> Tensor:
        with torch.no_grad():  # it may be one that requires gradients
            return make(*arguments, **options).zero_()

    return zeros


def warm(cells: Sequence[Cell], jobs: int, device: str = "cuda") -> list[str]:
    """Compiles what training and scoring of `cells` on a GPU needs, in `jobs` processes. Returns lines that say so.

    Raises SpecError for another device than a GPU.
    """
    if torch.device(device).type != "cuda":
        raise SpecError(f"--warm compiles the kernels of a GPU, and this run is on {device}: leave it out")
    start, chosen = time.perf_counter(), networks(cells)
    if (mark := _mark(chosen)).exists():
        return [f"kernels of {counted(len(chosen), 'network')}: compiled before ({mark.name})"]
    compiled: list[Future] = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as workers:
        workers.submit(int)  # they start while we walk
        places = [built(cell, device) for cell in chosen]
        with step.determinism(True), unlaunched(lambda call: compiled.append(workers.submit(call.compile))):
            for cell, place in zip(chosen, places, strict=True):
                walk(cell, *place, device)
        walked = time.perf_counter() - start
        for future in compiled:
            future.result()
    mark.write_text(json.dumps([_way(cell) for cell in chosen], indent=1) + "\n")
    spent = f"{time.perf_counter() - start:.1f} s, {walked:.1f} of them to walk"
    return [f"{counted(len(compiled), 'kernel')} of {counted(len(chosen), 'network')} in {jobs} processes: {spent}"]


def _mark(cells: Sequence[Cell]) -> Path:
    """The file that says that the kernels of these networks are in the cache."""
    return kernel_cache.mark("warm", f"{sorted(map(_way, cells))} {SIZES}")
