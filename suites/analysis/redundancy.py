"""How alike the outputs of a scan's directions are, layer by layer.

MambaIRv2's paper motivates a single direction with cosine similarities above 0.7 between the four of MambaIR. Of what,
taken how, and of which layers, could not be found out (the code that drew its figure is not published). So this is said
of every pair of directions, both put in pixel order, in four ways, each in -1..1:

    pixel      the cosine between the two outputs of a pixel over channels, its mean over pixels
    whole      the cosine between the two outputs as wholes, [L E] numbers each
    centred    the same after every channel's mean over pixels is taken off, of each by itself: a correlation
    state      `centred` without the skip D u, which in every direction is the same pixel's: what scanning adds

and of each direction `skip`: the RMS of its D u over that of its output.
"""

import itertools
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from suites.analysis.recording import ScanCall

WAYS = ("pixel", "whole", "centred", "state")
NAMES = {"MambaIRv2": ("raster", "raster back", "columns", "columns back")}
NAMES |= {"MambaIR": ("raster", "columns", "raster back", "columns back")}
COLUMNS = ("layer", "first", "second", *WAYS, "skip", "pixels")


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


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    """[K, L, E] -> [K, L E] of length 1; all 0 where x is."""
    return torch.nn.functional.normalize(x.flatten(1), dim=1)


class Redundancy:
    """The similarities of one image's tiles; `add` takes their scans as `recording.recorded` tells them.

    layers: scans of one forward pass. kind: the network's class, one of NAMES, which orders its directions.
    """

    def __init__(self, layers: int, kind: str) -> None:
        self.layers, self.names = layers, NAMES[kind]
        self.rows: list[dict[str, Any]] = []

    def add(self, call: ScanCall) -> None:
        """Adds a row per pair of directions and image of a batch; none for a scan of one direction."""
        skip = call.u.unsqueeze(1) * call.D.unsqueeze(1)  # [B, K, L, E]
        for y, part in zip(call.y, skip, strict=True):
            for (k, m), values in similarities(y, part).items():
                row = {"layer": call.number % self.layers, "first": self.names[k], "second": self.names[m]}
                self.rows.append(row | values | {"pixels": y.shape[1]})

    def frame(self) -> pd.DataFrame:
        """A row per layer (from 0) and pair of directions with COLUMNS: means over tiles, weighted by their pixels."""
        frame = pd.DataFrame(self.rows, columns=list(COLUMNS))
        values = [*WAYS, "skip"]
        frame[values] = frame[values].mul(frame["pixels"], axis=0)
        summed = frame.groupby(["layer", "first", "second"], as_index=False, sort=False).sum()
        summed[values] = summed[values].div(summed["pixels"], axis=0)
        return summed[list(COLUMNS)]
