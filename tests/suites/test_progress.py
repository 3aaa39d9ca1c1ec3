"""The time left is what was measured, and says when it is not yet known."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from suites.progress import Forecast, ScoreBar, Watch, duration
from suites.recipes import choose

BASE, OTHER = (cells[0] for cells in (choose("smoke", only="base/*").cells, choose("smoke", only="scans-2/*").cells))
STEPS = BASE.budget.iterations


def watch(cell=BASE, started=0.0, **reports: float) -> Watch:
    """A watch that saw the given steps (as step_N=time)."""
    made = Watch(cell, started)
    for name, at in reports.items():
        made.see({"event": "train", "step": int(name.split("_")[1]), "iterations": STEPS}, at)
    return made


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3600 * 5 + 720, "5 h 12 min"), (86400 * 2 + 5, "2 d")],
)
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text


def test_nothing_is_said_before_steps_were_timed():
    forecast = Forecast(2)
    for early in (watch(), watch(step_10=5.0), watch(step_10=5.0, step_20=6.0)):  # nothing, one report, one second
        forecast.learn(early)
        assert forecast.left([early], [BASE], 7.0) is None
    assert forecast.text([watch()], [], 1.0) == "time left: not measured yet"


def test_one_cell_then_two_side_by_side():
    forecast, first = Forecast(1), watch(step_10=4.0, step_50=12.0)  # 0.2 s a step, 4 s before it
    forecast.learn(first)
    assert forecast.left([first], [], 12.0) == (pytest.approx(0.2 * (STEPS - 50)), True)
    first.see({"event": "train", "step": STEPS, "iterations": STEPS}, 12.0 + 0.2 * (STEPS - 50))
    end = 12.0 + 0.2 * (STEPS - 50) + 3.0
    forecast.finished(first, end)  # 3 s of evaluation: 7 s beside the timed training
    whole = 0.2 * STEPS + 7.0
    assert forecast.left([], [BASE], end) == (pytest.approx(whole), False)
    assert forecast.left([], [BASE, OTHER], end) == (pytest.approx(2 * whole), False)  # the mean rate stands in
    forecast.capacity = 2
    assert forecast.left([], [BASE, OTHER], end) == (pytest.approx(whole), False)
    assert forecast.left([], [BASE, BASE, OTHER], end) == (pytest.approx(1.5 * whole), False)


def test_a_resumed_cell_is_not_credited_with_steps_of_before():
    resumed = watch(step_200=5.0, step_210=8.0)
    assert resumed.rate == pytest.approx(0.3)


def test_another_budget_tells_nothing():
    forecast, seen = Forecast(1), watch(step_10=4.0, step_50=12.0)
    forecast.learn(seen)
    longer = replace(BASE, budget=replace(BASE.budget, batch=99 * BASE.budget.accumulate))
    assert forecast.left([seen], [longer], 12.0) is None


def test_scoring_tells_a_pipe_now_and_then(monkeypatch):
    monkeypatch.setattr("suites.progress.LINE_S", 0.0)
    out = io.StringIO()
    with ScoreBar(Console(file=out, force_terminal=False)) as bar:
        bar("Set5", 1, 5, "baby")
        bar("Set5", 2, 5, "bird")
    told = [line.partition(", about ")[0] for line in out.getvalue().splitlines()]
    assert told == ["Set5: 1 of 5 images", "Set5: 2 of 5 images"]  # and the time left, once there is a pace
    monkeypatch.setattr("suites.progress.LINE_S", 60.0)
    out = io.StringIO()
    with ScoreBar(Console(file=out, force_terminal=False)) as bar:
        bar("Set5", 1, 5, "baby")
    assert not out.getvalue()
