"""Stop-watches, ratios and exponents against closed forms."""

import numpy as np
import pytest
import torch

from reports.pages import profile
from suites.benchmark.timing import StopWatch, quantiles, ratio


def test_ratios_are_taken_within_rounds():
    baseline = np.array([1.0, 10.0, 2.0, 5.0, 1.0, 4.0, 3.0])  # a machine that slows down and recovers
    found = ratio(1.5 * baseline, baseline)
    assert [found[key] for key in ("ratio", "ratio_low", "ratio_high")] == pytest.approx([1.5] * 3)
    rng = np.random.default_rng(0)
    noisy = ratio(2 * baseline * rng.uniform(0.9, 1.1, 7), baseline)
    assert 1.8 <= noisy["ratio_low"] <= noisy["ratio"] <= noisy["ratio_high"] <= 2.2
    assert noisy["ratio_low"] < noisy["ratio_high"]
    assert ratio([1.0] * 4, [2.0] * 4) == {"ratio": 0.5, "ratio_low": None, "ratio_high": None}


def test_quantiles_are_the_sample_s():
    assert quantiles(list(range(11))) == {"median_ms": 5, "p10_ms": 1, "p90_ms": 9}


def test_the_stop_watch_reads_the_mean_of_its_calls(monkeypatch):
    now = iter([1.0, 1.6])
    monkeypatch.setattr("suites.benchmark.timing.benchmark.timer", lambda: next(now))
    called = []
    assert StopWatch(torch.device("cpu")).read(lambda: called.append(1), 3) == pytest.approx(200) and len(called) == 3
    monkeypatch.setattr("suites.benchmark.timing.SHORTEST_MS", 20.0)
    assert StopWatch(torch.device("cpu")).calls(6.0) == 4 and StopWatch(torch.device("cpu")).calls(50.0) == 1


def test_exponents_of_exact_power_laws():
    pixels = [1024, 4096, 16384, 65536]
    slope, low, high = profile.exponent(pixels, [3 * p**1.25 for p in pixels])
    assert (slope, low, high) == pytest.approx((1.25,) * 3, abs=1e-6)
    slope, low, high = profile.exponent(pixels, [p * f for p, f in zip(pixels, (1, 1.1, 0.9, 1), strict=True)])
    assert low < slope < high and low < 1 < high
    assert profile.exponent([1, 4], [1.0, 16.0]) == (pytest.approx(2), None, None)
