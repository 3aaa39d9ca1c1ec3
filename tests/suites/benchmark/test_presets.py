"""The preset behind docs/performance.md: it measures all that has a goal, and a killed run leaves what it measured."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import runner
from reports.pages import performance, profile
from results import measured
from suites.benchmark import cost, presets, profiling
from suites.benchmark.comparison import Plan, Point
from suites.benchmark.kernels import ScanPlan
from suites.spec import SpecError, Task

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("suites.benchmark.timing.SHORTEST_MS", 0.0)
    monkeypatch.setattr(profiling, "count", lambda candidate, task, size: (1000, None))


def described(plan) -> list[dict]:
    """Fields of the rows that a plan will make."""
    if isinstance(plan, ScanPlan):
        return [{"operator": "scan", **vars(case), **vars(way)} for case in plan.cases for way in plan.candidates]
    found = []
    for point in plan.points:
        at = {"mode": point.mode, "batch": point.batch, "height": point.size[0], "width": point.size[1]}
        for c in plan.candidates:
            how = {"precision": c.precision, "backend": c.backend, "launch": c.launch}
            found.append({"model": c.model, "overrides": c.overrides, "task": plan.task.name, **at, **how})
    return found


@pytest.mark.parametrize("device, key", [("cuda", "goals"), ("cpu", "cpu_goals")])
def test_all_that_has_a_goal_is_measured(device, key):
    made = [row for plan in presets.plans("goals", device, 5) for row in described(plan)]
    found = {"rows": [r for r in made if "model" in r], "operators": [r for r in made if "operator" in r]}
    for goal in measured.goals()[key]:
        rows = [row for _, row in performance.matching(goal, [found])]
        assert rows, goal["what"]
        for precision in ("fp32", "tf32", "bf16"):
            if precision in goal:
                assert any(performance.target(goal, row)[0] == goal[precision][0] for row in rows)
    assert all(plan.rounds == 5 and plan.device.type == device for plan in presets.plans("goals", device, 5))
    (alone,) = presets.plans("scans", device, 5)
    assert described(alone) == [row for row in made if "operator" in row]


def test_the_multiply_adds_of_a_patch_are_those_counted():
    (goal,) = [goal for goal in measured.goals()["goals"] if goal.get("mode") == "training" and "model" in goal]
    size = 2 * goal["height"], 2 * goal["width"]
    assert cost.complexity(goal["model"], Task.parse(goal["task"]), size)["macs"] == goal["macs"]


def tiny(plan):
    if isinstance(plan, ScanPlan):
        return replace(plan, cases=tuple(replace(case, length=64) for case in plan.cases))
    candidates = tuple(replace(candidate, variant="mambairv2-tiny") for candidate in plan.candidates)
    return replace(plan, candidates=candidates, points=tuple(replace(p, size=(8, 8)) for p in plan.points))


def test_the_command_measures_a_preset_and_keeps_what_it_has(monkeypatch, capsys, tmp_path: Path):
    file, whole, kept = tmp_path / "p.json", presets.plans, []
    monkeypatch.setattr(presets, "plans", lambda *given: [tiny(plan) for plan in whole(*given)])
    monkeypatch.setattr(profiling, "kernels_cached", lambda: 0)
    monkeypatch.setattr("results.records.write_json", lambda path, value: kept.append(json.dumps(value)))
    arguments = ["--preset", "goals", "--device", "cpu", "--rounds", "2", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["runner.py", "profile", *arguments])
    assert runner.main() == 0
    out, err = capsys.readouterr()
    states = [json.loads(text) for text in kept]
    assert [(len(state["operators"]), len(state["rows"])) for state in states] == [(2, 0), (4, 0), (4, 2)]
    assert all(state["environment"]["command"].startswith("runner.py profile --preset goals") for state in states)
    assert all(profile.markdown(state) for state in states)  # also of a run that was killed
    assert "scan forward+backward, batch 1, 48 channels" in out and "inference, 8x8" in out and "1 of 2, " in err


def test_a_preset_fixes_all_lists():
    with pytest.raises(SpecError, match="--preset fixes sizes"):
        presets.choose("goals", None, None, sizes="8x8", modes=None, rounds=3, device="cpu")
    with pytest.raises(SpecError, match="unknown preset"):
        presets.choose("speed", None, None, rounds=3, device="cpu")
    with pytest.raises(SpecError, match="--rounds"):
        presets.choose("goals", None, None, rounds=0, device="cpu")


def test_lists_that_are_left_out_have_their_defaults():
    (made,) = presets.choose(None, None, None, sizes=None, launches="eager,graph", rounds=3, device="cpu")
    assert isinstance(made, Plan) and made.points == (Point("inference", (64, 64), 1),)
    assert [c.launch for c in made.candidates] == ["eager", "graph"]
    assert (made.candidates[0].model, made.task.name, made.rounds) == ("mambairv2-light", "sr-x2", 3)
