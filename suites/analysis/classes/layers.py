"""What every layer of a network does to every tile of a picture, as far as classes are concerned."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

import models
from models.backbone import flip_pad
from suites.analysis.recording import ScanCall, padded, recorded
from suites.analysis.spec import Context, Pair
from suites.evaluation import tiling
from suites.evaluation.evaluate import samples
from suites.spec import SpecError


@dataclass(frozen=True)
class Layer:
    """One layer's scan of one tile, L = height x width pixels with those that the network pads.

    number: of the layer. tile: of the picture. classes int64 [L]; order int64 [L]: the pixel of every step of the first
    direction, None for raster; features float [L, E]: what the scan reads of a pixel; C [L, N], table [T, N]: the
    prompts.
    """

    number: int
    tile: tiling.Tile
    height: int
    width: int
    classes: Tensor
    order: Tensor | None
    features: Tensor
    C: Tensor
    table: Tensor

    def kept(self, values: Tensor, shape: tuple[int, int]) -> tuple[slice, slice, Tensor]:
        """The part of values [L] that this tile contributes to a picture of `shape`: its place, and [h, w]."""
        sides = zip((self.tile.rows, self.tile.columns), shape, strict=True)
        rows, columns = (slice(span.keep_start, min(span.keep_stop, side)) for span, side in sides)
        inner = values.view(self.height, self.width)
        top, left = self.tile.rows.start, self.tile.columns.start
        return rows, columns, inner[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def count(network: nn.Module) -> int:
    """Layers of a network. Raises SpecError for one whose pixels have no classes that a scan is told."""
    config = getattr(network, "config", None)
    wanted = {"ase": "on", "prompt_target": "C"}
    if config is None or not hasattr(config, "ase"):
        raise SpecError(f"{type(network).__name__} has no classes of pixels: give a MambaIRv2")
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise SpecError(
                f"this network has {name}={getattr(config, name)!r}: classes are seen where it is {value!r}"
            )
    if not config.scans or config.memory is not None:
        raise SpecError(f"this network has scans={config.scans}, memory={config.memory}: a whole scan is needed")
    return sum(config.depths)


def visit(network: nn.Module, pair: Pair, context: Context, seed: int | None, told: Callable[[Layer], None]) -> None:
    """Restores a picture by the protocol with noise of `seed` (None: the likeliest class), and tells of every layer of
    every tile as it is computed."""
    layers, shape = count(network), pair.lq.shape[:2]
    cut = tiling.tiles(*shape, context.protocol.tiling)
    multiple = models.capabilities_of(network).multiple

    def hear(call: ScanCall) -> None:
        tile = cut[call.number // layers]
        height, width = padded(tile, multiple)
        order = None if call.order is None else call.order[0, 0]
        found = call.classes[0], order, call.u[0].float(), call.C[0, 0].float(), call.table.float()
        told(Layer(call.number % layers, tile, height, width, *found))

    routing = "argmax" if seed is None else "gumbel"
    protocol = replace(context.protocol, routing=routing, samples=1, seed=seed or 0)
    with _routed(network, routing), recorded(hear):
        for _ in samples(network, pair.lq, protocol, pair.stem, device=context.device):
            pass


@contextmanager
def _routed(network: nn.Module, routing: str) -> Iterator[None]:
    before, network.routing = network.routing, routing
    try:
        yield
    finally:
        network.routing = before


def class_maps(network: nn.Module, pair: Pair, context: Context, seed: int | None) -> np.ndarray:
    """Classes int16 [layers, H, W] of a picture's pixels, tiles put together as the network's outputs are."""
    shape = pair.lq.shape[:2]
    maps = np.zeros((count(network), *shape), dtype=np.int16)

    def fill(layer: Layer) -> None:
        rows, columns, classes = layer.kept(layer.classes, shape)
        maps[layer.number, rows, columns] = classes.cpu().numpy()

    visit(network, pair, context, seed, fill)
    return maps


def of_tiles(maps: np.ndarray, network: nn.Module, context: Context) -> list[Tensor]:
    """Maps [M, H, W] of a picture, as the scan sees them in every tile: float64 [M, L]."""
    x, multiple = torch.from_numpy(np.asarray(maps, dtype=np.float64)), models.capabilities_of(network).multiple
    cut = tiling.tiles(*x.shape[-2:], context.protocol.tiling)
    x = tiling.reflect(x, cut[-1].rows.keep_stop, cut[-1].columns.keep_stop)
    parts = (x[:, tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop] for tile in cut)
    return [flip_pad(part, multiple).flatten(1).to(context.device) for part in parts]
