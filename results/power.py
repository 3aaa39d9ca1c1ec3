"""The scatter between seeds, and what a plan of n of them can detect: exact power of the t tests that verdicts rest on.

A difference d whose estimate has the standard error s is found (two-sided, level alpha) with the probability
P(|T| > t(1 - alpha/2, df)), T noncentral t with df degrees of freedom and noncentrality d / s. Cohen, Statistical Power
Analysis for the Behavioral Sciences, 1988, ch. 2.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t

MOST_SEEDS = 10_000


def residual(scores: Sequence[tuple[Hashable, Hashable, float]]) -> tuple[float, int]:
    """Residual sum of squares of score = variant + seed + error by least squares over (variant, seed, score), and its
    degrees of freedom: (variants - 1) (seeds - 1) when no score is missing. (0.0, 0) where there are none.

    Twice the mean square is the variance of a difference of two variants at one seed.
    """
    places: dict[tuple[int, Hashable], int] = {}
    for score in scores:
        for factor in (0, 1):
            places.setdefault((factor, score[factor]), len(places))
    design = np.zeros((len(scores), len(places)))  # of one rank less than columns, at the most
    for line, score in enumerate(scores):
        design[line, [places[factor, score[factor]] for factor in (0, 1)]] = 1
    values = np.array([score[2] for score in scores], dtype=float)
    values = values - values.mean()  # scores of 30 dB differ by hundredths: keeps the digits
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    df = len(scores) - int(rank)
    return (float(np.sum((values - design @ solution) ** 2)), df) if df else (0.0, 0)


def power_of(
    effect: float, sd: float, seeds: int, alpha: float = 0.05, *, paired: bool = True, df: float | None = None
) -> float:
    """The probability (0..1) that a true difference `effect` is told from zero with `seeds` seeds a variant.

    sd: paired, of the differences seed by seed; else of the scores of one variant, equal in both (t test of two
    samples). effect and sd have one unit. df: degrees of freedom of the variance where it is pooled over more than this
    comparison; without it seeds - 1 (paired) or 2 (seeds - 1). Raises ValueError for what no plan has.
    """
    if not (sd > 0 and seeds >= 1 and 0 < alpha < 1 and effect >= 0) or (df is not None and df <= 0):
        raise ValueError(f"effect {effect} >= 0, sd {sd} > 0, seeds {seeds} >= 1, alpha {alpha} in (0, 1), df {df} > 0")
    df = (seeds - 1) * (1 if paired else 2) if df is None else df
    if df == 0:
        return 0.0  # one seed tells nothing of the scatter
    critical = t.isf(alpha / 2, df)
    shift = effect / (sd * math.sqrt((1 if paired else 2) / seeds))
    return float(nct.sf(critical, df, shift) + nct.sf(critical, df, -shift))


def minimum_detectable_effect(
    sd: float,
    seeds: int,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    paired: bool = True,
    df: float | None = None,
) -> float:
    """The difference that `seeds` seeds find with probability `power`, in the unit of `sd`; inf for a single seed.

    The arguments are those of `power_of`. Raises ValueError for what no plan has.
    """
    if not alpha < power < 1:
        raise ValueError(f"power {power} must lie between alpha {alpha} and 1")
    if power_of(0.0, sd, seeds, alpha, paired=paired, df=df) == 0:
        return math.inf

    def lacking(effect: float) -> float:
        return power - power_of(effect, 1.0, seeds, alpha, paired=paired, df=df)

    high = 1.0
    while lacking(high) > 0:
        high *= 2
    return sd * float(brentq(lacking, 0.0, high, xtol=1e-12))


def seeds_needed(
    effect: float, sd: float, alpha: float = 0.05, power: float = 0.8, *, paired: bool = True
) -> int | None:
    """The fewest seeds a variant that find a difference `effect` with probability `power`; None: over 10,000.

    The arguments are those of `power_of`, the variance is of this comparison alone. Raises ValueError.
    """
    low, high = 1, 2
    while power_of(effect, sd, high, alpha, paired=paired) < power:
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = power_of(effect, sd, middle, alpha, paired=paired) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high if high <= MOST_SEEDS else None
