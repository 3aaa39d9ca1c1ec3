"""Intervals of means and of paired differences, by Student's t; the unit is a seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of n values with its confidence interval; low and high are None where n is 1: no scatter is known."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def covers_zero(self) -> bool | None:
        """Whether zero is inside, the ends included; None where there is no interval."""
        return None if self.low is None else self.low <= 0 <= self.high


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean +- t(n - 1) * sd / sqrt(n) of independent values. Raises ValueError for none, or one that is not finite."""
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"an interval needs at least one value, and finite ones: {values.tolist()}")
    mean, n = float(values.mean()), values.size
    if n == 1:
        return Interval(mean, None, None, 1)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired_interval(ours: Mapping[int, float], base: Mapping[int, float], level: float = LEVEL) -> Interval | None:
    """Interval of the mean difference ours - base over the seeds that both have; None when they share none.

    A seed gives both the same image draws, crops, flips and initial values, so its scatter cancels in the difference.
    """
    seeds = sorted(ours.keys() & base.keys())
    return mean_interval([ours[seed] - base[seed] for seed in seeds], level) if seeds else None
