"""Effective receptive field: how much the centre of the output depends on every pixel of the input.

    map(p)    sum over input channels of max(0, d o / d x_p), o the sum over channels of the output's central pixel
    field     the mean map over images
    area      of the smallest centred square that holds more than 20, 30, 50 or 99 % of the field, over the image's

Two published procedures, which differ in two places:

    replknet   o = sum of max(0, output); areas of log10(field + 1)       (RepLKNet, Ding et al. 2022: erf/ of its code)
    mambair    o = sum of the output; shown as field^0.25, no areas        (analysis/erf.py of csguoh/MambaIR)

MambaIR's repository takes Urban100's LR resized to 120 x 120 by nearest neighbours; RepLKNet's classifiers take 1024 x
1024. Both are done here with 120 x 120, and both areas are given. Where every central value is positive, as in pictures
it nearly always is, the two maps are equal, and are computed once.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from suites.analysis.gradients import differentiated
from suites.analysis.recording import draws
from suites.analysis.spec import Analysis, Context, Measured, Pair

SIDE = 120
SHARES = (0.2, 0.3, 0.5, 0.99)
PROCEDURES = ("replknet", "mambair")
COLUMNS = {
    "procedure": "replknet or mambair",
    "share": "of the map as the procedure looks at it",
    "side": "of the smallest centred square with more than that, pixels of 120; missing where none has it",
    "area": "of that square over the image's, 0..1",
}


def analyses(network: nn.Module) -> list[Analysis]:
    """The one question of this module."""
    question = "how far around does the centre of the output look?"
    return [Analysis("erf", question, measure, COLUMNS, {"side": SIDE}, draws(network))]


def measure(network: nn.Module, pair: Pair, context: Context) -> Measured:
    """Areas of single images; the maps, from which those of a set's mean are taken, are arrays "<procedure>/<seed>"."""
    image, rows, arrays = resized(pair.lq.transpose(2, 0, 1), SIDE), [], {}
    for seed in context.seeds:
        with differentiated(network, context, seed, pair.stem) as function:
            found = contributions(function, image, device=context.device)
        arrays |= {f"{name}/{seed or 0}": values.astype(np.float32) for name, values in found.items()}
        rows += [{"seed": seed, **row} for row in areas(found)]
    return Measured(pd.DataFrame(rows), arrays)


def areas(fields: dict[str, np.ndarray]) -> list[dict[str, float | str]]:
    """A row per procedure and share of SHARES, of one image or of a mean over images."""
    rows = []
    for name, field in fields.items():
        for share in SHARES:
            side, area = square(shown(field, name), share)
            rows.append({"procedure": name, "share": share, "side": side, "area": area})
    return rows


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """float32 [C, side, side] of image [C, H, W], by the nearest neighbours that PyTorch takes."""
    x = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)).unsqueeze(0)
    return F.interpolate(x, size=(side, side)).squeeze(0).numpy()


def contributions(
    network: Callable[[Tensor], Tensor],
    image: np.ndarray,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> dict[str, np.ndarray]:
    """The map float64 [H, W] of one image [C, H, W] by each of PROCEDURES. network: differentiable in its input."""
    x = torch.from_numpy(image).to(device, dtype).unsqueeze(0).requires_grad_()
    output = network(x)
    centre = output[0, :, output.shape[2] // 2, output.shape[3] // 2]  # [C]
    positive = bool((centre > 0).all())
    found = {}
    for name in PROCEDURES:
        if name == "mambair" and positive:
            found[name] = found["replknet"]
            continue
        target = F.relu(centre) if name == "replknet" else centre
        (gradient,) = torch.autograd.grad(target.sum(), x, retain_graph=name == "replknet" and not positive)
        found[name] = F.relu(gradient[0].double()).sum(0).cpu().numpy()
    return found


def shown(field: np.ndarray, procedure: str) -> np.ndarray:
    """The field [H, W] as a procedure looks at it, over its maximum: log10(field + 1) or field^0.25."""
    values = np.log10(field + 1) if procedure == "replknet" else field**0.25
    return values / values.max() if values.max() > 0 else values


def square(values: np.ndarray, share: float) -> tuple[float, float]:
    """(side in pixels, its area over the image's) of the smallest centred square with more than `share` of the sum.

    Squares of 3, 5, ... pixels around [H // 2, W // 2] as far as half the height, as in RepLKNet's code; NaN where none
    has so much.
    """
    height, width = values.shape
    row, column, total = height // 2, width // 2, values.sum()
    for half in range(1, height // 2):
        part = values[row - half : row + half + 1, max(column - half, 0) : column + half + 1]
        if part.sum() > share * total:
            side = 2 * half + 1
            return float(side), side**2 / (height * width)
    return math.nan, math.nan
