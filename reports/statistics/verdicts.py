"""The verdicts, and the rule behind each (docs/statistics.md has them in words).

A published score of given weights, or of a full training, is judged by itself; whatever was trained at a smaller budget
is judged by its difference from the base alone.
"""

from reports.statistics.intervals import LEVEL, Interval

# dB: half a printed digit, and what another machine's float32 and LR maker do to a set's mean. SSIM: in proportion.
TOLERANCE = {"psnr": 0.02, "ssim": 0.0005}
EQUIVALENCE = 0.02  # dB: a variant is equivalent to its base when the 95 % interval of their difference lies within

REPRODUCED, CONFIRMS, CONTRADICTS, DIFFERS = "reproduced", "confirms", "contradicts", "differs"
INCONCLUSIVE, BETTER, WORSE, BASE = "inconclusive", "better", "worse", "base"
COSTS, GAINS, NO_BASE, APART = "costs", "gains", "no base", "no base of the same machine"
MARGIN = 0.01  # dB: a change of trained weights that is worth less is without effect
NO_EFFECT, EQUIVALENT = f"no effect within {MARGIN} dB", f"equivalent within {MARGIN} dB"
NO_COUNTERPART = "no published counterpart"
AGREE, DISAGREE = "counts agree", "counts differ"  # of two counts of ours: nothing published is reproduced by them


def of_score(interval: Interval, metric: str) -> str:
    """A measured score against the published one; interval: of their difference (`statistics.draw_interval`).

    reproduced: within TOLERANCE. Else differs, unless the interval covers zero: inconclusive.
    """
    if abs(interval.mean) <= TOLERANCE[metric]:
        return REPRODUCED
    return INCONCLUSIVE if interval.covers_zero else DIFFERS


def of_difference(
    difference: float, p: float | None, published: float | None = None, p_size: float | None = None
) -> str:
    """A variant against its base. p: of no difference, p_size: of the published one, both Holm's within the family;
    None where no scatter is known.

    Without a published difference: better or worse where p is below 0.05. With one: contradicts where p is below 0.05
    and the difference has the other sign; differs where its size is another (p_size below 0.05); confirms where p is
    below 0.05, the sign is the same and the size is not excluded. Everything else is inconclusive.
    """
    significant = p is not None and p < 1 - LEVEL
    if published is None:
        return (BETTER if difference > 0 else WORSE) if significant else INCONCLUSIVE
    if significant and difference * published < 0:
        return CONTRADICTS
    if p_size is not None and p_size < 1 - LEVEL:
        return DIFFERS
    return CONFIRMS if significant and published else INCONCLUSIVE


def equivalent(interval: tuple[float | None, float | None]) -> bool:
    """Whether a variant and its base are shown to be alike: (low, high), the 95 % interval of their difference in dB,
    lies within +-EQUIVALENCE. False where there is no interval."""
    low, high = interval
    return low is not None and high is not None and max(-low, high) <= EQUIVALENCE


def of_change(interval: Interval, p: float | None) -> str:
    """A trained network with one thing changed against itself; interval: of the difference in dB over the images, 95 %.
    p: of no difference, Holm's within the question.

    no effect within 0.01 dB: the interval lies within +-MARGIN, so that what there may be is shown to be small. Else
    costs or gains where p is below 0.05. Everything else is inconclusive.
    """
    if interval.low is not None and max(-interval.low, interval.high) <= MARGIN:
        return NO_EFFECT
    if p is not None and p < 1 - LEVEL:
        return GAINS if interval.mean > 0 else COSTS
    return INCONCLUSIVE


def of_pair(interval: Interval, p: float | None) -> str:
    """Weights against other weights on the same images: the rule of `of_change`, said of two networks. p: of no
    difference; nothing is corrected for the number of sets.

    equivalent within 0.01 dB, better, worse or inconclusive.
    """
    return {NO_EFFECT: EQUIVALENT, GAINS: BETTER, COSTS: WORSE}.get(of_change(interval, p), INCONCLUSIVE)
