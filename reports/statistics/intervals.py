"""Intervals and tests by Student's t, or by Hall's transformation of it. The unit is a seed where networks are trained,
an image where weights are fixed.

docs/statistics.md says which interval stands in which table and how often each covers what it should
(`reports.statistics.coverage`). What a plan can detect is in `results.power`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import stats

from results.power import minimum_detectable_effect, residual, seeds_needed

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of n values with its confidence interval; low and high are None where no scatter is known.

    df: degrees of freedom of the variance behind it. error: standard error of the mean. tilt: skewness of the values
    over sqrt(n), where their t is transformed for it (`skewed_interval`).
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    df: float | None = None
    error: float | None = None
    tilt: float = 0.0

    @property
    def covers_zero(self) -> bool | None:
        """Whether zero is inside, the ends included; None where there is no interval."""
        return None if self.low is None else self.low <= 0 <= self.high

    def __neg__(self) -> "Interval":
        """Of the values with the other sign."""
        ends = {"low": None, "high": None} if self.low is None else {"low": -self.high, "high": -self.low}
        return replace(self, mean=-self.mean, tilt=-self.tilt, **ends)

    def p(self, low: float = 0.0, high: float | None = None) -> float | None:
        """Two-sided p value of the hypothesis that the true mean lies in [low, high]; None without an interval."""
        if self.error is None:
            return None
        distance = self.mean - min(max(self.mean, low), low if high is None else high)
        if self.error == 0 or distance == 0:
            return float(distance == 0)
        return float(2 * stats.t.sf(abs(_unskewed(distance / self.error, self.tilt)), self.df))


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean +- t(n - 1) * sd / sqrt(n) of independent values. Raises ValueError for none, or one that is not finite."""
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"an interval needs at least one value, and finite ones: {values.tolist()}")
    n = values.size
    return _interval(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None, n, n - 1, level)


def skewed_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """As `mean_interval`, for values with a long tail on one side: t is transformed so that its skewness goes.

    Hall (J. R. Statist. Soc. B 1992, "On the removal of skewness by transformation"): with a the skewness over sqrt(n),
    g(t) = t + a t^2 / 3 + a^2 t^3 / 27 + a / 6 grows with t and is nearly symmetric; its quantiles are taken to be
    Student's, and the interval is that of g^-1. It lies further out on the side of the tail. Fewer than three values,
    and equal ones, have `mean_interval`.
    """
    plain = mean_interval(values, level)
    if plain.n < 3 or plain.error == 0:
        return plain
    tilt = float(stats.skew(values, bias=False)) / math.sqrt(plain.n)
    low, high = (_skewed(sign * _quantile(level, plain.df), tilt) for sign in (1, -1))
    return replace(plain, low=plain.mean - low * plain.error, high=plain.mean - high * plain.error, tilt=tilt)


def _unskewed(t: float, tilt: float) -> float:
    """Hall's g."""
    return t + tilt * t**2 / 3 + tilt**2 * t**3 / 27 + tilt / 6


def _skewed(g: float, tilt: float) -> float:
    """The t of which `_unskewed` makes g."""
    if abs(tilt) < 1e-6:  # the difference is below 1e-6 t^2, and the formula loses digits
        return g
    return 3 / tilt * (float(np.cbrt(1 + tilt * (g - tilt / 6))) - 1)


def draw_interval(values: Sequence[float], draw: float, level: float = LEVEL) -> Interval:
    """Interval of the difference between the mean of `values` and the mean of what `draw` was drawn from, once.

    A published score is one run, or one draw of the routing noise, and scatters as each of `values` does: the interval
    is mean - draw +- t(n - 1) * sd * sqrt(1 + 1/n). Raises ValueError as `mean_interval` does.
    """
    interval = mean_interval([value - draw for value in values], level)
    if interval.low is None:
        return interval
    return _interval(interval.mean, interval.error * math.sqrt(interval.n + 1), interval.n, interval.df, level)


def paired_interval(ours: Mapping[int, float], base: Mapping[int, float], level: float = LEVEL) -> Interval | None:
    """Interval of the mean difference ours - base over the seeds that both have; None when they share none.

    A seed gives both the same image draws, crops, flips and initial values, so its scatter cancels in the difference.
    """
    seeds = sorted(ours.keys() & base.keys())
    return mean_interval([ours[seed] - base[seed] for seed in seeds], level) if seeds else None


def welch_interval(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Interval:
    """Interval of mean(a) - mean(b) of two independent samples whose variances may differ (Welch, Biometrika 1947).

    `n` is the smaller sample. Raises ValueError for fewer than two values in one of them.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"Welch's interval needs two values on either side: {len(a)} and {len(b)} are there")
    result = stats.ttest_ind(a, b, equal_var=False)
    low, high = result.confidence_interval(level)
    mean, n, df = float(np.mean(a) - np.mean(b)), min(len(a), len(b)), float(result.df)
    return Interval(mean, float(low), float(high), n, df, math.hypot(stats.sem(a), stats.sem(b)))


@dataclass(frozen=True)
class Difference:
    """A variant against the base of its family, over the seeds that both have.

    interval: with the variance that the family shares; own: with the variance of this difference alone. sd: of the
    difference of one seed, from the shared variance; None where no scatter is known.
    """

    interval: Interval
    own: Interval
    sd: float | None

    def __neg__(self) -> "Difference":
        """The base against the variant."""
        return replace(self, interval=-self.interval, own=-self.own)

    def detectable(self, comparisons: int = 1) -> float | None:
        """The difference found with power 0.8 at the level 0.05 / comparisons (Holm's first step); None without
        scatter."""
        if self.sd is None:
            return None
        if self.sd == 0:
            return 0.0
        alpha = (1 - LEVEL) / comparisons
        return minimum_detectable_effect(self.sd, self.interval.n, alpha, df=self.interval.df)

    def seeds_for(self, effect: float, comparisons: int = 1) -> int | None:
        """The fewest seeds that find `effect` with power 0.8 at that level, by this scatter and without pooling.

        None without scatter, for no effect, and where it would take more seeds than anybody has.
        """
        if not self.sd or not effect:
            return None
        return seeds_needed(abs(effect), self.sd, (1 - LEVEL) / comparisons)


def against_base(scores: Mapping[str, Mapping[int, float]], base: str, level: float = LEVEL) -> dict[str, Difference]:
    """Every variant of a family against `base`: scores by variant and seed -> the variants that share a seed with it.

    The differences are means over pairs of equal seeds. Their common variance is that of the two-way layout
    score = variant + seed + error, by least squares over all scores: its residual has (variants - 1) (seeds - 1)
    degrees of freedom when no score is missing, and for one variant all is the paired t test. (Averaging the variances
    of the differences would count the base's scatter once per variant and claim degrees of freedom that are not there.)
    """
    squares, df = residual([(name, seed, score) for name, own in scores.items() for seed, score in own.items()])
    result = {}
    for name, values in scores.items():
        own = paired_interval(values, scores[base], level) if name != base else None
        if own is None:
            continue
        sd = math.sqrt(2 * squares / df) if df else None
        error = None if sd is None else sd / math.sqrt(own.n)
        result[name] = Difference(_interval(own.mean, error, own.n, df, level), own, sd)
    return result


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values of a family: below 0.05 where Holm's step-down test rejects (Scand. J. Statist. 1979).

    The i-th smallest of n is multiplied by n - i + 1, and never less than one before it. (statsmodels' function runs a
    garbage collection with every call, which takes longer than a table with a hundred families should.)
    """
    ordered = sorted(p_values, key=p_values.get)
    steps = [p_values[name] * (len(ordered) - place) for place, name in enumerate(ordered)]
    adjusted = np.minimum(np.maximum.accumulate(steps), 1) if steps else []
    return {name: float(p) for name, p in zip(ordered, adjusted, strict=True)}


def _interval(mean: float, error: float | None, n: int, df: float, level: float) -> Interval:
    """mean +- t * standard error; without one only the mean."""
    if error is None or df < 1:
        return Interval(mean, None, None, n, None)
    half = _quantile(level, df) * error
    return Interval(mean, mean - half, mean + half, n, df, error)


@lru_cache
def _quantile(level: float, df: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, df))
