"""What the seams between tiles cost, and how much overlap takes that away.

An image is restored in the tiles of its protocol with several overlaps (percent of a tile that is added at each of its
inner sides; officially 10), and its squared error is taken by distance from the nearest seam. The seams lie at the same
pixels whatever the overlap. An image of a single tile has none: one row says so.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from torch import nn

from suites.analysis.recording import draws
from suites.analysis.spec import Analysis, Context, Measured, Pair
from suites.evaluation import metrics, tiling
from suites.evaluation.evaluate import samples

OVERLAPS = (0, 2, 5, 10, 20)
BANDS = (2, 4, 8, 16)  # input pixels from a seam: up to 2, up to 4, ...; 0 stands for all pixels
COLUMNS = {
    "overlap": "percent of a tile added at each inner side",
    "band": "input pixels: no further than this from a seam, and further than the band before; 0: all pixels",
    "mse": "mean squared error of what the protocol compares, 0..255 squared",
    "share": "of the compared pixels that lie in the band, 0..1",
}


def analyses(network: nn.Module) -> list[Analysis]:
    """The one question of this module."""
    question = "what do seams between tiles cost?"
    return [Analysis("seams", question, measure, COLUMNS, {"overlaps": list(OVERLAPS)}, draws(network))]


def measure(network: nn.Module, pair: Pair, context: Context) -> Measured:
    """A row per seed, overlap and band that has pixels; of a single tile those of the widest overlap alone."""
    frame = []
    away = distances(*pair.lq.shape[:2], context.protocol.tiling)
    overlaps = OVERLAPS if np.isfinite(away).any() else OVERLAPS[-1:]
    scale, border = context.task.scale, context.protocol.border
    away = metrics.crop(np.kron(away, np.ones((scale, scale))), border)
    truth = metrics.compared(pair.truth, context.protocol)
    for seed in context.seeds:
        protocol = replace(context.protocol, seed=seed or 0, samples=1)
        for overlap in overlaps:
            how = {"device": context.device, "overlap": overlap}
            (output,) = samples(network, pair.lq, protocol, pair.stem, **how)
            error = metrics.compared(metrics.quantise(output), protocol).astype(np.float64) - truth
            error = metrics.crop(error, border) ** 2
            frame += [{"seed": seed, "overlap": overlap, **row} for row in by_distance(error, away)]
    return Measured(pd.DataFrame(frame))


def distances(height: int, width: int, rule: tiling.Tiling) -> np.ndarray:
    """How far the pixels of an LR image are from the nearest seam, float64 [height, width]: 1 for those beside one,
    infinite without seams."""
    rows, columns = (_from_seams(side, rule) for side in (height, width))
    return np.minimum(rows[:, None], columns[None, :])


def _from_seams(length: int, rule: tiling.Tiling) -> np.ndarray:
    seams = np.array([part.keep_start for part in tiling.spans(length, rule)[1:]], dtype=np.float64)
    pixels = np.arange(length)[:, None] + 0.5
    return (np.abs(pixels - seams) + 0.5).min(axis=1, initial=np.inf)


def by_distance(error: np.ndarray, away: np.ndarray) -> list[dict[str, float]]:
    """`band`, `mse` and `share` of every band that has pixels; error [H, W] or [H, W, C], away [H, W]."""
    error = error.mean(axis=2) if error.ndim == 3 else error
    rows, inner = [{"band": 0, "mse": error.mean(), "share": 1.0}], 0
    for band in BANDS:
        inside = (away > inner) & (away <= band)
        if inside.any():
            rows.append({"band": band, "mse": error[inside].mean(), "share": inside.mean()})
        inner = band
    return rows
