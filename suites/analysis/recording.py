"""Every call of the selective scan within a forward pass, with all that it read and gave.

The scan is one operator of PyTorch (`mambair_bench::attentive_scan`), so PyTorch's own dispatcher tells of every call:
networks need no hook for it, and whatever network scans is seen.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import models
from suites.analysis.spec import Context, Measured, Pair
from suites.evaluation import tiling
from suites.evaluation.evaluate import samples
from suites.spec import SpecError


@dataclass(frozen=True)
class ScanCall:
    """One call: inputs and equations of `models.ops.scan`, B batch, K directions, L pixels, E channels, N states.

    number: how many calls of this forward pass came before it, so the layer. u [B, L, E]; delta [B, K, L, E], before
    bias and softplus; A [K, E, N]; B, C [B, K, L, N]; D, bias [K, E]; y [B, K, L, E]; all in pixel order.
    order int64 [B, K, L]: the pixel of every step, None for raster. table [T, N] and classes int64 [B, L]: the prompts
    that C gets at every step, None where it gets none, or where they are in B, C or delta already (`prompt_target`).
    at int64 [B, K, L]: the pixel that prompts every step, None for the i-th.
    """

    number: int
    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    bias: Tensor
    order: Tensor | None
    table: Tensor | None
    classes: Tensor | None
    at: Tensor | None
    y: Tensor


@contextmanager
def recorded(told: Callable[[ScanCall], object]) -> Iterator[None]:
    """Within: `told` is given every call of the scan as soon as it has returned. One forward pass at a time.

    A scan with memory 1 calls nothing, because nothing is scanned; with a longer memory B counts pieces (models.ops.
    scan.memory).
    """
    with _Recorder(told):
        yield


class _Recorder(TorchDispatchMode):
    def __init__(self, told: Callable[[ScanCall], object]) -> None:
        super().__init__()
        self.told, self.calls = told, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.mambair_bench.attentive_scan.default:
            u, delta, A, B, C, D, bias, order, table, classes, _, at, *_ = args
            call = ScanCall(self.calls, u, delta, A, B, C, D, bias, order, table, classes, at, result[0])
            self.calls += 1
            self.told(call)
        return result


class Taken(Protocol):
    """What becomes of the scans of one image."""

    def add(self, call: ScanCall) -> None: ...

    def frame(self) -> pd.DataFrame: ...


def scans_of(network: nn.Module) -> int:
    """How many scans one forward pass calls. Raises SpecError for a network of which none can be recorded."""
    count = sum(hasattr(module, "A_logs") for module in network.modules())
    if count == 0:
        raise SpecError(f"{type(network).__name__} as it is configured has no selective scan")
    if getattr(network.config, "memory", None) is not None:
        raise SpecError(f"memory {network.config.memory} cuts the scan into pieces: leave it out")
    return count


def padded(tile: tiling.Tile, multiple: int) -> tuple[int, int]:
    """Height and width of a tile as a network scans it, padded to whole multiples."""
    height, width = (math.ceil((span.stop - span.start) / multiple) * multiple for span in (tile.rows, tile.columns))
    return height, width


def draws(network: nn.Module) -> bool:
    """Whether an answer depends on the seed of the routing noise."""
    return models.capabilities_of(network).routed and network.routing == "gumbel"


def taken(network: nn.Module, pair: Pair, context: Context, make: Callable[[], Taken]) -> Measured:
    """Restores an image as its protocol says, once per seed, and returns what `make()` makes of its scans."""
    frames = []
    for seed in context.seeds:
        found = make()
        protocol = replace(context.protocol, seed=seed or 0, samples=1)
        with recorded(found.add):
            for _ in samples(network, pair.lq, protocol, pair.stem, device=context.device):
                pass
        frames.append(found.frame().assign(seed=seed))
    return Measured(pd.concat(frames, ignore_index=True))
