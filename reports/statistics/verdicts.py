"""The verdicts, and the rule behind each (docs/statistics.md has them in words).

A published score of given weights, or of a full training, is judged by itself; whatever was trained at a smaller budget
is judged by its difference from the base alone.
"""

from reports.statistics.intervals import LEVEL, Interval

# dB: half a printed digit, and what another machine's float32 and LR maker do to a set's mean. SSIM: in proportion.
TOLERANCE = {"psnr": 0.02, "ssim": 0.0005}

REPRODUCED, CONFIRMS, CONTRADICTS, DIFFERS = "reproduced", "confirms", "contradicts", "differs"
INCONCLUSIVE, BETTER, WORSE, BASE = "inconclusive", "better", "worse", "base"
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
