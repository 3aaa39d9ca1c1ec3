"""Kernels are counted only of what was checked, for everything that has a goal as a graph."""

import sys

import pytest
import torch

import runner
from results import measured
from suites.benchmark import breakdown, comparison
from suites.benchmark.comparison import Candidate, Plan, Point
from suites.benchmark.timing import StopWatch
from suites.spec import Task

CPU = torch.device("cpu")
FOUND = [{"kernel": "_linear", "launches": 4.0, "ms": 0.5}]


def plan() -> Plan:
    candidate = Candidate("mambairv2-tiny", "fp32", "chunked")
    return Plan((candidate,), (Point("inference", (16, 16), 1),), Task("sr", 2), "gumbel", 1, CPU)


def test_every_network_with_a_goal_is_taken_apart():
    names = dict(breakdown.plans(torch.device("cuda")))
    wanted = {f"{goal['model']}/{goal['mode']}" for goal in measured.goals()["goals"] if "model" in goal}
    assert {name.rpartition("/")[0] for name in names} == wanted
    assert {"mambairv2-light/training/bf16", "mambairv2-base/inference/tf32x3"} <= set(names)


def test_a_row_has_the_kernels_of_what_was_checked(monkeypatch):
    monkeypatch.setattr(breakdown, "kernels", lambda call, device, calls: call() is not None and FOUND)
    row = breakdown.row(plan(), StopWatch(CPU), 1)
    assert (row["status"], row["kernels"], row["check"]["share_free"]) == ("ok", FOUND, 1.0)
    assert (row["model"], row["height"], row["precision"]) == ("mambairv2-tiny", 16, "fp32")


def test_what_computes_something_else_is_not_taken_apart(monkeypatch):
    monkeypatch.setattr(breakdown, "kernels", lambda *_: pytest.fail("taken apart all the same"))
    monkeypatch.setattr(comparison, "agreement", lambda *_: 0.5)
    row = breakdown.row(plan(), StopWatch(CPU), 1)
    assert (row["status"], row["kernels"]) == ("differs", None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "cpu"], "on a GPU, not on cpu"),
        (["--device", "cuda:9"], "cuda:9"),
    ],
)
def test_without_that_gpu_one_line_says_so(monkeypatch, capsys, tmp_path, arguments, says):
    monkeypatch.setattr(sys, "argv", ["runner.py", "breakdown", str(tmp_path / "file.json"), *arguments])
    assert runner.main() == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and says in lines[0] and not list(tmp_path.iterdir())
