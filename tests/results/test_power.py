"""What n seeds can detect, against published tables and simulated experiments."""

import math

import numpy as np
import pytest
from scipy import stats

from results.power import minimum_detectable_effect, power_of, residual, seeds_needed

# Sample sizes of two-sided tests at alpha 0.05 and power 0.8, as G*Power gives them (Faul et al., Behavior Research
# Methods 39, 2007) and Cohen (1988, table 2.4.1) for two samples, there with n rounded.
SAMPLE_SIZES = [(0.2, 394, 199), (0.5, 64, 34), (0.8, 26, 15)]


@pytest.mark.parametrize(("effect", "two_samples", "paired"), SAMPLE_SIZES)
def test_published_sample_sizes(effect, two_samples, paired):
    assert seeds_needed(effect, 1.0) == paired
    assert seeds_needed(effect, 1.0, paired=False) == two_samples
    assert power_of(effect, 1.0, paired) >= 0.8 > power_of(effect, 1.0, paired - 1)


def test_published_power():
    # Cohen 1988, table 2.3.5 (two samples, two-sided 0.05): n = 20, d = 0.5 and 0.8; n = 50, d = 0.5. Two digits.
    for seeds, effect, expected in ((20, 0.5, 0.33), (20, 0.8, 0.69), (50, 0.5, 0.70)):
        assert power_of(effect, 1.0, seeds, paired=False) == pytest.approx(expected, abs=0.0101)


@pytest.mark.parametrize(("seeds", "paired", "alpha"), [(3, True, 0.05), (4, True, 0.01), (4, False, 0.05)])
def test_simulated_experiments_find_the_minimum_detectable_effect_four_times_in_five(seeds, paired, alpha):
    generator, runs, sd = np.random.default_rng(0), 40_000, 0.06
    effect = minimum_detectable_effect(sd, seeds, alpha, paired=paired)
    if paired:
        found = stats.ttest_1samp(generator.normal(effect, sd, (runs, seeds)), 0, axis=1)
    else:
        ours, base = generator.normal(effect, sd, (runs, seeds)), generator.normal(0, sd, (runs, seeds))
        found = stats.ttest_ind(ours, base, axis=1)
    assert (found.pvalue < alpha).mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / runs))


def test_a_pooled_variance_with_its_degrees_of_freedom():
    generator, runs, seeds, others, sd = np.random.default_rng(1), 40_000, 3, 5, 0.1
    df = (seeds - 1) * others
    effect = minimum_detectable_effect(sd, seeds, df=df)
    differences = generator.normal(0, sd, (runs, others, seeds))  # of five comparisons; the first has an effect
    pooled = differences.var(axis=2, ddof=1).mean(axis=1)
    statistic = (differences[:, 0].mean(axis=1) + effect) / np.sqrt(pooled / seeds)
    found = np.abs(statistic) > stats.t.isf(0.025, df)
    assert found.mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / runs))
    assert effect < minimum_detectable_effect(sd, seeds)
    assert math.isfinite(minimum_detectable_effect(sd, 1, df=df))


def test_units_limits_and_no_effect():
    assert minimum_detectable_effect(0.3, 5) == pytest.approx(0.3 * minimum_detectable_effect(1.0, 5))
    assert minimum_detectable_effect(1.0, 1) == minimum_detectable_effect(1.0, 1, paired=False) == math.inf
    normal = (stats.norm.isf(0.025) + stats.norm.ppf(0.8)) / math.sqrt(5000)
    assert minimum_detectable_effect(1.0, 5000) == pytest.approx(normal, rel=1e-3)
    assert power_of(0.0, 1.0, 4, alpha=0.03) == pytest.approx(0.03)  # false alarms, on both sides
    assert power_of(1e4, 1.0, 2) == pytest.approx(1.0)
    assert power_of(minimum_detectable_effect(2.0, 2, 0.001, 0.9), 2.0, 2, 0.001) == pytest.approx(0.9)
    assert seeds_needed(1e-3, 1.0) is None and seeds_needed(100.0, 1.0) == 2


@pytest.mark.parametrize("wrong", [{"sd": 0.0}, {"sd": -1.0}, {"seeds": 0}, {"alpha": 0.0}, {"df": 0}, {"power": 0.01}])
def test_what_no_plan_has_is_an_error(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        minimum_detectable_effect(**{"sd": 1.0, "seeds": 4, **wrong})


def test_residual_of_a_whole_table_is_that_of_its_double_means():
    table = np.array([[30.0, 30.2, 30.1], [30.5, 30.4, 30.9], [29.8, 30.3, 30.0], [30.1, 30.1, 30.6]])
    rows = [(variant, seed, score) for variant, line in enumerate(table) for seed, score in enumerate(line)]
    left = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    squares, df = residual(rows)
    assert (squares, df) == (pytest.approx((left**2).sum()), 6)
    pair = [row for row in rows if row[0] < 2]
    assert 2 * residual(pair)[0] / 2 == pytest.approx(np.var(table[0] - table[1], ddof=1))  # the paired t test's
    assert residual(pair[:1]) == (0.0, 0)
