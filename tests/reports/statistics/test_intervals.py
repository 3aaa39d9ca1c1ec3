"""Intervals, tests and corrections against scipy and against closed forms; coverage against what is known of it."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.statistics import coverage
from reports.statistics.intervals import (
    against_base,
    draw_interval,
    holm,
    mean_interval,
    paired_interval,
    skewed_interval,
    welch_interval,
)


def test_three_values_by_hand():
    interval = mean_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.n, interval.df) == (2.0, 3, 2)
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
    expected = stats.ttest_rel(ours, base)
    bounds = expected.confidence_interval(level)
    assert (interval.low, interval.high) == (pytest.approx(bounds.low), pytest.approx(bounds.high))
    assert interval.p() == pytest.approx(expected.pvalue)
    assert interval.covers_zero == (expected.pvalue > 1 - level)


def test_p_of_a_range_is_that_of_its_nearest_end():
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.p(0.5, 1.0) == pytest.approx(stats.ttest_1samp([1.0, 2.0, 3.0], 1.0).pvalue)
    assert interval.p(3.5, 9.0) == pytest.approx(stats.ttest_1samp([1.0, 2.0, 3.0], 3.5).pvalue)
    assert interval.p(1.5, 2.5) == 1.0  # the mean lies inside
    assert mean_interval([1.0]).p() is None
    same = mean_interval([0.1, 0.1])
    assert same.p() == 0.0 and same.p(0.0, 0.2) == 1.0


def test_pairs_are_made_by_seed_and_only_of_shared_seeds():
    ours, base = {3: 31.0, 1: 30.0, 7: 99.0}, {1: 29.0, 3: 29.0, 5: 0.0}
    interval = paired_interval(ours, base)
    assert (interval.mean, interval.n) == (1.5, 2)
    assert paired_interval({1: 30.0}, {2: 30.0}) is None


def test_one_value_has_no_interval():
    interval = mean_interval([0.5])
    assert (interval.mean, interval.low, interval.high, interval.covers_zero) == (0.5, None, None, None)
    assert draw_interval([0.5], 0.4).low is None


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_no_mean_of_nothing_or_of_what_is_not_finite(values):
    with pytest.raises(ValueError, match="at least one value, and finite"):
        mean_interval(values)


def test_a_published_run_scatters_as_ours_do():
    """The interval of mean - draw: sd sqrt(1 + 1/n), by hand."""
    interval = draw_interval([1.0, 2.0, 3.0], 1.5)
    half = 4.302652729911275 * np.sqrt(4 / 3)
    assert (interval.mean, interval.low, interval.high) == (0.5, pytest.approx(0.5 - half), pytest.approx(0.5 + half))


def test_welchs_interval_by_its_definition():
    a, b = [30.1, 30.4, 30.2, 30.9], [30.0, 29.0, 31.5]
    va, vb = np.var(a, ddof=1) / 4, np.var(b, ddof=1) / 3
    df = (va + vb) ** 2 / (va**2 / 3 + vb**2 / 2)
    half = stats.t.ppf(0.975, df) * math.sqrt(va + vb)
    interval = welch_interval(a, b)
    assert (interval.df, interval.error) == (pytest.approx(df), pytest.approx(math.sqrt(va + vb)))
    assert (interval.low, interval.high) == (
        pytest.approx(np.mean(a) - np.mean(b) - half),
        pytest.approx(np.mean(a) - np.mean(b) + half),
    )
    with pytest.raises(ValueError, match="two values on either side"):
        welch_interval([1.0], b)


def family(variants: int, seeds: int) -> dict[str, dict[int, float]]:
    scores = np.random.default_rng(variants).normal(30, 0.1, (variants, seeds)) + np.arange(seeds)
    return {str(variant): dict(enumerate(row)) for variant, row in enumerate(scores.tolist())}


def test_a_family_of_two_is_the_paired_t_test():
    scores = family(2, 5)
    difference = against_base(scores, "0")["1"]
    expected = stats.ttest_rel(list(scores["1"].values()), list(scores["0"].values()))
    assert difference.interval.p() == pytest.approx(expected.pvalue) and difference.interval.df == 4
    assert difference.interval.low == pytest.approx(difference.own.low)


def test_pooled_variance_is_the_residual_of_the_two_way_layout():
    """By its closed form: sums of squares of what is left when both means are taken out."""
    scores = family(4, 3)
    table = np.array([list(row.values()) for row in scores.values()])  # [variants, seeds]
    left = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    variance = np.sum(left**2) / 6
    for name, difference in against_base(scores, "0").items():
        assert (difference.interval.df, difference.interval.n) == (6, 3)
        assert difference.sd == pytest.approx(np.sqrt(2 * variance))
        assert difference.interval.error == pytest.approx(np.sqrt(2 * variance / 3))
        assert difference.interval.mean == pytest.approx(table[int(name)].mean() - table[0].mean())
        assert difference.own.error == pytest.approx(np.std(table[int(name)] - table[0], ddof=1) / np.sqrt(3))


def test_a_family_with_missing_scores_uses_what_is_there():
    scores = family(3, 4)
    del scores["1"][2], scores["2"][0]
    scores["2"][9] = 31.0  # a seed of its own takes up its own seed effect: no degree of freedom
    differences = against_base(scores, "0")
    assert differences["1"].interval.mean == pytest.approx(
        np.mean([scores["1"][seed] - scores["0"][seed] for seed in (0, 1, 3)])
    )
    assert (differences["1"].interval.n, differences["1"].interval.df) == (3, 11 - (3 + 5 - 1))
    lonely = against_base({"0": {0: 30.0, 1: 30.2}, "1": {5: 30.0}, "2": {0: 30.1}}, "0")
    assert set(lonely) == {"2"} and lonely["2"].interval.low is None and lonely["2"].detectable() is None


def test_detectable_difference_of_one_comparison_has_power_080():
    """By the noncentral t: at the detectable difference the paired t test rejects in 80 % of cases."""
    difference = against_base(family(2, 4), "0")["1"]
    shift = difference.detectable() / difference.interval.error
    critical = stats.t.ppf(0.975, 3)
    assert stats.nct.sf(critical, 3, shift) + stats.nct.cdf(-critical, 3, shift) == pytest.approx(0.8, abs=1e-6)
    assert difference.detectable(4) > difference.detectable()


def test_seeds_for_an_effect_are_the_fewest_with_power_080():
    difference = against_base(family(2, 4), "0")["1"]
    needed = difference.seeds_for(-1.2 * difference.sd)

    def power(n: int) -> float:
        critical, shift = stats.t.ppf(0.975, n - 1), 1.2 * np.sqrt(n)
        return stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)

    assert power(needed) >= 0.8 > power(needed - 1)
    assert difference.seeds_for(0.0) is None and difference.seeds_for(1e-6 * difference.sd) is None


def test_holm_by_hand():
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.9}) == pytest.approx(
        {"b": 0.04, "c": 0.09, "a": 0.09, "d": 0.9}  # 4 * .01, 3 * .03, max(.09, 2 * .04), .9
    )
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_without_skewness_halls_interval_is_students():
    values = [-2.0, -1.0, 0.0, 1.0, 2.0]
    found, plain = skewed_interval(values), mean_interval(values)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high)) and found.p() == 1.0
    assert skewed_interval([1.0, 2.0]) == mean_interval([1.0, 2.0]) and skewed_interval([3.0] * 4).low == 3.0


def test_halls_interval_reaches_to_the_side_of_the_tail_and_ends_where_p_is_005():
    """Its ends are those means of which the test at 5 % has p = 0.05; mirrored values have the mirrored interval."""
    values = [-1.15, -0.12, -0.07, -0.03, -0.01, 0.0, 0.01, 0.04, 0.05]
    found, plain = skewed_interval(values), mean_interval(values)
    assert found.low < plain.low and found.high < plain.high and found.mean == plain.mean
    assert [found.p(end) for end in (found.low, found.high)] == pytest.approx([0.05, 0.05])
    mirrored = skewed_interval([-value for value in values])
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


# How often the intervals cover


@pytest.fixture(scope="module")
def committed() -> pd.DataFrame:
    return pd.read_csv(coverage.TARGET / "coverage.csv")


def row(frame: pd.DataFrame, point: coverage.Point) -> pd.Series:
    found = frame[(frame["interval"] == point.interval) & (frame["scatter"] == point.scatter) & (frame["n"] == point.n)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.parametrize("interval", [coverage.MEAN, coverage.DRAW])
def test_a_cell_of_the_committed_table_comes_out_again(committed, interval):
    point = coverage.Point(interval, "normal", 3)
    assert row(committed, point)["coverage"] == pytest.approx(coverage.simulate(point)[0], abs=1e-4)


def test_the_committed_table_is_whole_and_its_known_cells_are_right(committed):
    """Of normal errors Student's intervals are exact, and Holm's family error is at most 5 %: within 4 standard errors.

    (The differences of the unequal errors are normal too.)
    """
    assert list(zip(committed["interval"], committed["scatter"], committed["n"], strict=True)) == list(
        coverage.points()
    )
    exact = (coverage.MEAN, coverage.DRAW, coverage.OWN, coverage.POOLED, coverage.OVER_IMAGES)
    known = committed[committed["interval"].isin(exact) & (committed["scatter"] == "normal")]
    known = pd.concat([known, committed[(committed["interval"] == coverage.OWN) & (committed["scatter"] == "unequal")]])
    assert len(known) == 18 and (np.abs(known["coverage"] - 0.95) < 4 * known["standard_error"]).all()
    family = committed[(committed["interval"] == coverage.HOLM) & (committed["scatter"] == "normal")]
    assert (family["coverage"] > 0.95 - 4 * family["standard_error"]).all()
    expected = np.sqrt(committed["coverage"] * (1 - committed["coverage"]) / coverage.REPEATS)
    assert np.allclose(committed["standard_error"], expected, atol=1e-5)
