"""Intervals against scipy and against closed forms."""

import numpy as np
import pytest
from scipy import stats

from reports.statistics import mean_interval, paired_interval


def test_three_values_by_hand():
    interval = mean_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.n) == (2.0, 3)
    half = 4.302652729911275 / np.sqrt(3)  # t(0.975, 2) times sd 1 over sqrt(3)
    assert (interval.low, interval.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert interval.covers_zero
    assert not mean_interval([2.0, 2.1, 2.2]).covers_zero


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_paired_interval_is_scipys(n, level):
    rng = np.random.default_rng(n)
    base, ours = rng.normal(30, 0.2, n), rng.normal(30.1, 0.2, n)
    interval = paired_interval(dict(enumerate(ours)), dict(enumerate(base)), level)
    expected = stats.ttest_rel(ours, base).confidence_interval(level)
    assert (interval.low, interval.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert interval.covers_zero == (stats.ttest_rel(ours, base).pvalue > 1 - level)


def test_pairs_are_made_by_seed_and_only_of_shared_seeds():
    ours, base = {3: 31.0, 1: 30.0, 7: 99.0}, {1: 29.0, 3: 29.0, 5: 0.0}
    interval = paired_interval(ours, base)
    assert (interval.mean, interval.n) == (1.5, 2)
    assert paired_interval({1: 30.0}, {2: 30.0}) is None


def test_one_value_has_no_interval():
    interval = mean_interval([0.5])
    assert (interval.mean, interval.low, interval.high, interval.covers_zero) == (0.5, None, None, None)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_no_mean_of_nothing_or_of_what_is_not_finite(values):
    with pytest.raises(ValueError, match="at least one value, and finite"):
        mean_interval(values)
