"""How a cost grows with pixels: the exponent with its interval, and over which sizes it is proportional."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from reports.statistics.intervals import LEVEL

WITHIN = 0.1  # of the least cost of a pixel: where it is within so much, the cost is proportional


@dataclass(frozen=True)
class Exponent:
    """Slope of the straight line through the logarithms, with its t interval; None at both ends for two sizes."""

    slope: float
    low: float | None
    high: float | None
    sizes: int


def exponent(pixels: Sequence[int], values: Sequence[float], level: float = LEVEL) -> Exponent:
    """Of values ~ pixels ** slope, by least squares. Raises ValueError for fewer than two sizes."""
    if len(set(pixels)) < 2:
        raise ValueError(f"an exponent needs at least two sizes, not {sorted(set(pixels))}")
    fit = stats.linregress(np.log(pixels), np.log(values))
    slope = float(fit.slope)
    if len(pixels) < 3:
        return Exponent(slope, None, None, len(pixels))
    half = float(stats.t.ppf((1 + level) / 2, len(pixels) - 2) * fit.stderr)
    return Exponent(slope, slope - half, slope + half, len(pixels))


@dataclass(frozen=True)
class Reach:
    """Pixels at which a cost reaches a limit, with the interval."""

    pixels: float
    low: float
    high: float


def reach(pixels: Sequence[int], values: Sequence[float], limit: float, level: float = LEVEL) -> Reach:
    """Where a fixed cost and so much a pixel, fitted by least squares of the relative errors, add up to `limit`, with
    the classical calibration interval of one more size.

    Raises ValueError for fewer than three sizes, or a cost that does not grow.
    """
    if len(set(pixels)) < 3:
        raise ValueError(f"an interval needs at least three sizes, not {sorted(set(pixels))}")
    p, v = np.asarray(pixels, float), np.asarray(values, float)
    x = np.stack([1 / v, p / v], 1)
    (fixed, each), *_ = np.linalg.lstsq(x, np.ones(len(v)))
    if each <= 0:
        raise ValueError(f"the cost does not grow with the pixels: {each:.3g} a pixel")
    at = (limit - fixed) / each
    scatter = np.sqrt(np.square(1 - x @ (fixed, each)).sum() / (len(v) - 2))
    there = np.array([1.0, at])
    half = stats.t.ppf((1 + level) / 2, len(v) - 2) * scatter / each
    half *= np.sqrt(limit**2 + there @ np.linalg.inv(x.T @ x) @ there)
    return Reach(*(float(value) for value in (at, at - half, at + half)))


def proportional(pixels: Sequence[int], values: Sequence[float], within: float = WITHIN) -> tuple[int, int]:
    """(least, most) pixels of the sizes around the cheapest pixel at which a pixel costs at most (1 + within) of it.

    Below the least a fixed cost is spread over too few pixels; beyond the most a pixel costs more again.
    """
    order = np.argsort(pixels)
    sizes, each = np.asarray(pixels)[order], (np.asarray(values) / np.asarray(pixels))[order]
    cheapest = int(each.argmin())
    low = high = cheapest
    while low > 0 and each[low - 1] <= each[cheapest] * (1 + within):
        low -= 1
    while high < len(each) - 1 and each[high + 1] <= each[cheapest] * (1 + within):
        high += 1
    return int(sizes[low]), int(sizes[high])
