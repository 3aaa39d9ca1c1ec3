"""Calls made by other processes come back by name, and those not begun are dropped."""

import math
import os
import time
from concurrent.futures.process import BrokenProcessPool

from suites.execution.scoring_pool import ScoringPool


def test_calls_come_back_by_name_and_those_not_begun_are_dropped():
    with ScoringPool(1) as pool:
        pool.submit("root", math.sqrt, 16)
        pool.submit("root", math.sqrt, 25)  # pending already
        pool.submit("wrong", math.sqrt, -1)
        found = dict(pool.results(math.inf))
        assert found["root"].result() == 4 and isinstance(found["wrong"].exception(), ValueError)
        pool.submit("long", time.sleep, 0.3)
        while not pool._pending["long"].running():
            time.sleep(0.01)
        assert list(pool.results()) == [] and list(pool.results(time.monotonic())) == []
        for number in range(20):
            pool.submit(number, math.sqrt, number)
        names = [name for name, _ in pool.last()]
        assert names[0] == "long" and len(names) < 20 and list(pool.results(math.inf)) == []


def test_a_process_that_dies_fails_what_was_pending_and_nothing_later():
    with ScoringPool(1) as pool:
        pool.submit("killed", os._exit, 1)
        pool.submit("behind it", math.sqrt, 16)
        found = dict(pool.results(math.inf))
        assert all(isinstance(found[name].exception(), BrokenProcessPool) for name in ("killed", "behind it"))
        pool.submit("later", math.sqrt, 25)
        assert dict(pool.results(math.inf))["later"].result() == 5
