"""Kernels compiled before they are needed, by several processes, into Triton's cache.

A fresh process meets its kernels one after the other and waits for the compiler at each, over a minute in all. Here
every process walks through a training step and a scored picture of each network without launching a kernel, so that
nothing waits for anything, and compiles its share of what it met. The cache is what TRITON_CACHE_DIR names; it serves
other machines of one kind too. What is compiled: a step of the cells' budget, batch and patch, and pictures of SIZES
under their protocols.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

import models
from suites.data.pool import Batch
from suites.evaluation import ways
from suites.evaluation.evaluate import samples
from suites.progress import counted
from suites.spec import Cell
from suites.training import step

SIZES = ((16, 16), (64, 96), (161, 240), (240, 240))  # of pictures that are restored: kernels differ by little else


class Met(NamedTuple):
    """A kernel that would have been launched: the function, and how it was called."""

    function: Any
    arguments: tuple
    options: dict[str, Any]

    def compile(self) -> None:
        self.function.run(*self.arguments, grid=(1,), warmup=True, **self.options)


def networks(cells: Sequence[Cell]) -> list[Cell]:
    """A cell for each different way of computing among them: seeds, rates, lengths and labels compile nothing else."""
    found: dict[tuple, Cell] = {}
    for cell in cells:
        budget = cell.budget
        step = budget.batch, budget.patch, budget.accumulate, budget.precision, budget.loss
        key = cell.variant.model, repr(sorted(cell.variant.overrides.items())), cell.task, cell.protocol, step
        found.setdefault(key, cell)
    return list(found.values())


def walk(cell: Cell, device: str) -> None:
    """A training step of the cell and pictures of SIZES restored, on random data."""
    budget, task, draw = cell.budget, cell.task, np.random.default_rng(0)
    training_network = models.build(cell.variant.model, **task.network | cell.variant.overrides).to(device).train()
    shape = budget.batch, task.channels, budget.patch, budget.patch
    lq = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last)
    gt = lq.repeat_interleave(task.scale, 2).repeat_interleave(task.scale, 3)
    labels = torch.zeros((budget.batch, budget.patch, budget.patch), dtype=torch.int64, device=device)
    keys = torch.arange(budget.batch, device=device)
    batch = Batch(lq, gt, keys, None if cell.variant.labels == "learned" else labels)
    rate = torch.tensor(budget.lr, device=device)
    optimizer = torch.optim.Adam(training_network.parameters(), lr=rate, fused=True, capturable=True)
    step.optimise(training_network, optimizer, batch, cell, 1)
    scored = ways.scored_network(cell, "auto").to(device).eval()
    for size in SIZES:
        picture = draw.random((*size, task.channels), dtype=np.float32)
        list(samples(scored, picture, replace(cell.protocol, samples=1), "warm", device=device))


@contextmanager
def unlaunched(met: Callable[[Met, tuple], None]) -> Iterator[None]:
    """Kernels that are not compiled yet are not launched but given to `met`, with what tells them apart; new tensors
    are zeros meanwhile, which are valid classes and pixels to whatever reads them."""
    from triton import knobs
    from triton.runtime.jit import JITFunction

    now, run = threading.local(), JITFunction.run

    def noted(self, *arguments, grid, warmup, **options):
        now.call = Met(self, arguments, dict(options))
        return run(self, *arguments, grid=grid, warmup=warmup, **options)

    def hook(*, key, fn, **rest) -> bool:
        met(now.call, (fn.module, fn.name, str(key)))
        return True

    empty = torch.empty, torch.empty_like, torch.Tensor.new_empty
    torch.empty, torch.empty_like, torch.Tensor.new_empty = _zeros, torch.zeros_like, torch.Tensor.new_zeros
    JITFunction.run, knobs.runtime.jit_cache_hook = noted, hook
    try:
        yield
    finally:
        JITFunction.run, knobs.runtime.jit_cache_hook = run, None
        torch.empty, torch.empty_like, torch.Tensor.new_empty = empty


def _zeros(*size, memory_format: torch.memory_format = torch.contiguous_format, **options) -> torch.Tensor:
    """torch.zeros, with the argument that torch.empty has and it has not."""
    return torch.zeros(*size, **options).contiguous(memory_format=memory_format)


def share(cells: Sequence[Cell], index: int, count: int, device: str) -> tuple[int, int, float, float]:
    """Compiles every `count`-th kernel that the cells' networks launch, from `index` on. Returns how many there are,
    how many were compiled, and the seconds of walking and of compiling."""
    start, found = time.perf_counter(), {}

    def note(met: Met, key: tuple) -> None:
        if key not in found:
            found[key] = met if len(found) % count == index else None  # it holds on to its tensors

    with step.determinism(True), unlaunched(note):
        for cell in cells:
            walk(cell, device)
    walked = time.perf_counter()
    mine = [met for met in found.values() if met is not None]
    for met in mine:
        met.compile()
    return len(found), len(mine), walked - start, time.perf_counter() - walked


def warm(cells: Sequence[Cell], jobs: int, device: str = "cuda") -> list[str]:
    """Compiles what training and scoring of `cells` on a GPU needs, in `jobs` processes. Returns lines that say so."""
    start, chosen = time.perf_counter(), networks(cells)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as workers:
        shares = [workers.submit(share, chosen, index, jobs, device) for index in range(jobs)]
        found = [future.result() for future in shares]
    walking, compiling = (max(times) for times in list(zip(*found, strict=True))[2:])
    what = f"{found[0][0]} kernels of {counted(len(chosen), 'network')} in {jobs} processes"
    spent = f"{time.perf_counter() - start:.1f} s (at most {walking:.1f} walking, {compiling:.1f} compiling)"
    return [f"{what}: {spent}"]
