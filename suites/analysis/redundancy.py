"""How alike the outputs of a scan's directions are, layer by layer.

MambaIRv2's paper motivates a single direction with cosine similarities above 0.7 between the four of MambaIR. Of what,
taken how, and of which layers, could not be found out (the code that drew its figure is not published). So this is said
of every pair of directions, both put in pixel order, in four ways, each in -1..1:

    pixel      the cosine between the two outputs of a pixel over channels, its mean over pixels
    whole      the cosine between the two outputs as wholes, [L E] numbers each
    centred    the same after every channel's mean over pixels is taken off, of each by itself: a correlation
    state      `centred` without the skip D u, which in every direction is the same pixel's: what scanning adds

and of each direction `skip`: the RMS of its D u over that of its output.

A network with one direction is asked what four would give it: the inputs of each of its scans are scanned in raster
order, columns, and both back, with the weights of the one scan and every pixel's own prompt, and the outputs compared.
The network itself goes on as it is.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import models
from models.ops.scan import Prompt, attentive_scan
from models.ops.scan.permutation import column_major
from suites.analysis.recording import ScanCall, draws, padded, scans_of, taken
from suites.analysis.spec import Analysis, Context, Measured, Pair
from suites.evaluation import tiling
from suites.spec import SpecError

WAYS = ("pixel", "whole", "centred", "state")
NAMES = {"MambaIRv2": ("raster", "raster back", "columns", "columns back")}
NAMES |= {"MambaIR": ("raster", "columns", "raster back", "columns back")}
COLUMNS = {
    "layer": "number of the scan in the network, from 0",
    "first": "a direction",
    "second": "another direction",
    "pixel": "cosine between the outputs of a pixel, mean over pixels, -1..1",
    "whole": "cosine between the outputs of all pixels and channels, -1..1",
    "centred": "the same without the mean of every channel, -1..1",
    "state": "the same of what scanning adds to D u, -1..1",
    "skip": "RMS of D u over that of the output, of the direction where it is larger",
    "tokens": "pixels of the padded image, of all tiles",
}


def analyses(network: nn.Module) -> list[Analysis]:
    """The one question of this module. Raises SpecError for a network whose directions are not known here."""
    scans_of(network)
    if type(network).__name__ not in NAMES:
        raise SpecError(f"the directions of {type(network).__name__} are not known here: {', '.join(NAMES)} are")
    own = getattr(network.config, "scans", 4) > 1
    parameters = {"directions": "own" if own else "one scan repeated in four"}
    question = "how alike are the directions of a scan?"
    return [Analysis("redundancy", question, measure, COLUMNS, parameters, draws(network))]


def measure(network: nn.Module, pair: Pair, context: Context) -> Measured:
    """Compares the directions of every scan of an image, over all its tiles."""
    multiple = models.capabilities_of(network).multiple
    cut = tiling.tiles(*pair.lq.shape[:2], context.protocol.tiling)
    sizes = [padded(tile, multiple) for tile in cut]
    return taken(network, pair, context, lambda: Redundancy(scans_of(network), type(network).__name__, sizes))


def similarities(y: Tensor, skip: Tensor) -> dict[tuple[int, int], dict[str, float]]:
    """WAYS and `skip` (the larger of the two) of every pair of directions; y and skip D u [K, L, E] in pixel order."""
    y, skip = y.double(), skip.double()
    pixel = torch.nn.functional.normalize(y, dim=2)  # [K, L, E]
    whole, centred, state = (_unit(t) for t in (y, _centred(y), _centred(y - skip)))
    weight = (skip.square().mean((1, 2)) / y.square().mean((1, 2))).sqrt()  # [K]
    found = {}
    for k, m in itertools.combinations(range(len(y)), 2):
        values = {"pixel": (pixel[k] * pixel[m]).sum(1).mean()}
        values |= {"whole": whole[k] @ whole[m], "centred": centred[k] @ centred[m], "state": state[k] @ state[m]}
        found[k, m] = {name: float(value) for name, value in values.items()} | {"skip": float(weight[[k, m]].max())}
    return found


def repeated(call: ScanCall, height: int, width: int) -> ScanCall:
    """A scan of one direction, over height x width pixels, in four: raster, back, columns, back."""
    raster, columns = torch.arange(height * width, device=call.u.device), column_major(height, width, call.u.device)
    order = torch.stack([o for forward in (raster, columns) for o in (forward, forward.flip(0))])  # [4, L]
    order = order.expand(len(call.u), -1, -1)
    delta, B, C = (t.expand(-1, 4, -1, -1) for t in (call.delta, call.B, call.C))
    A, D, bias = (t.expand(4, *t.shape[1:]) for t in (call.A, call.D, call.bias))
    prompt = None if call.table is None else Prompt(call.table, call.classes, at=order)
    with torch.no_grad():
        y = attentive_scan(call.u, delta, A, B, C, D, bias, order=order, prompt=prompt)
    return replace(call, delta=delta, A=A, B=B, C=C, D=D, bias=bias, order=order, at=order, y=y)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    """[K, L, E] -> [K, L E] of length 1; all 0 where x is."""
    return torch.nn.functional.normalize(x.flatten(1), dim=1)


class Redundancy:
    """The similarities of one image's tiles; `add` takes their scans as `recording.recorded` tells them.

    layers: scans of one forward pass. kind: the network's class, one of NAMES, which orders its directions. sizes:
    height and width of every tile in turn, as it is scanned.
    """

    def __init__(self, layers: int, kind: str, sizes: Sequence[tuple[int, int]]) -> None:
        self.layers, self.names, self.sizes = layers, NAMES[kind], sizes
        self.rows: list[dict[str, Any]] = []

    def add(self, call: ScanCall) -> None:
        """Adds a row per pair of directions and image of a batch."""
        if call.delta.shape[1] == 1:
            call = repeated(call, *self.sizes[call.number // self.layers])
        skip = call.u.unsqueeze(1) * call.D.unsqueeze(1)  # [B, K, L, E]
        for y, part in zip(call.y, skip, strict=True):
            for (k, m), values in similarities(y, part).items():
                row = {"layer": call.number % self.layers, "first": self.names[k], "second": self.names[m]}
                self.rows.append(row | values | {"tokens": y.shape[1]})

    def frame(self) -> pd.DataFrame:
        """A row per layer (from 0) and pair of directions with COLUMNS: means over tiles, weighted by their pixels."""
        frame = pd.DataFrame(self.rows, columns=list(COLUMNS))
        values = [*WAYS, "skip"]
        frame[values] = frame[values].mul(frame["tokens"], axis=0)
        summed = frame.groupby(["layer", "first", "second"], as_index=False, sort=False).sum()
        summed[values] = summed[values].div(summed["tokens"], axis=0)
        return summed[list(COLUMNS)]
