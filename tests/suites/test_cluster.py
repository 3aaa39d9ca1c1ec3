"""The simulated scheduler against closed forms."""

import math

import numpy as np
import pytest

from suites.planning.cluster import Cluster, ends, sentence

CALM = {"slow": 0.0, "preemptions": 0.0, "start": 0.0}


def test_without_trouble_it_is_list_scheduling():
    assert ends([1.0] * 64, Cluster(64, **CALM), draws=2).tolist() == [1.0, 1.0]
    assert ends([1.0] * 65, Cluster(64, **CALM), draws=1)[0] == 2.0
    assert ends([3, 1, 1, 1, 4], Cluster(2, **CALM), draws=1)[0] == 7.0  # 3 + 4 beside 1 + 1 + 1
    assert ends([1.0] * 4, Cluster(4, slow=1.0, slowness=1.5, preemptions=0, start=0.5), draws=1)[0] == 2.0


def test_preemptions_cost_what_theory_says():
    """Restarted from nothing, a work of t hours takes (1/rate + wait) (e^(rate t) - 1) on average."""
    rate, wait, need = 0.5, 0.25, 2.0
    cluster = Cluster(1, slow=0, preemptions=rate, checkpoint=1e9, wait=wait, start=0)
    found = ends([need], cluster, draws=3000)
    assert np.mean(found) == pytest.approx((1 / rate + wait) * (math.exp(rate * need) - 1), rel=0.05)
    # With checkpoints all the time only the waits come on top: rate t of them.
    often = ends([need], Cluster(1, slow=0, preemptions=rate, checkpoint=1e-6, wait=wait, start=0), draws=1000)
    assert np.mean(often) == pytest.approx(need + rate * need * wait, rel=0.02)


def test_it_is_said_with_its_assumptions():
    text = sentence([1.0] * 128, 64)
    assert text.startswith("on 64 GPUs: 2.03 h if nothing goes wrong; simulated 200 times with 5% of GPUs 1.5 times")
    assert sentence([1.0] * 128, 64) == text  # seeded
