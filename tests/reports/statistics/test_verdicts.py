"""The rule of the verdicts, case by case, as docs/statistics.md words it."""

import pytest

from reports.statistics import verdicts
from reports.statistics.intervals import draw_interval


@pytest.mark.parametrize(
    ("difference", "p", "published", "p_size", "verdict"),
    [
        (0.05, 0.01, None, None, "better"),
        (-0.05, 0.01, None, None, "worse"),
        (-0.05, 0.06, None, None, "inconclusive"),
        (0.05, None, None, None, "inconclusive"),  # one seed
        (-0.09, 0.001, -0.08, 0.7, "confirms"),
        (0.09, 0.001, -0.08, 0.0001, "contradicts"),
        (-0.30, 0.001, -0.08, 0.01, "differs"),  # the sign holds, the size does not
        (-0.001, 0.9, -0.08, 0.01, "differs"),  # an effect of that size is excluded
        (-0.05, 0.2, -0.08, 0.6, "inconclusive"),
        (0.02, 0.2, -0.08, 0.06, "inconclusive"),  # the other sign, but not surely
        (-0.05, None, -0.08, None, "inconclusive"),
        (0.05, 0.01, 0.0, 0.3, "inconclusive"),  # no sign was published
        (0.05, 0.01, 0.0, 0.02, "differs"),
    ],
)
def test_differences(difference, p, published, p_size, verdict):
    assert verdicts.of_difference(difference, p, published, p_size) == verdict


@pytest.mark.parametrize(
    ("values", "metric", "verdict"),
    [
        ([38.255, 38.258, 38.254], "psnr", "reproduced"),
        ([38.2799], "psnr", "reproduced"),
        ([38.29], "psnr", "differs"),
        ([38.285, 38.284, 38.286], "psnr", "differs"),
        ([38.10, 38.50, 38.40], "psnr", "inconclusive"),
        ([38.2604], "ssim", "reproduced"),
        ([38.2606], "ssim", "differs"),
    ],
)
def test_scores(values, metric, verdict):
    assert verdicts.of_score(draw_interval(values, 38.26), metric) == verdict
