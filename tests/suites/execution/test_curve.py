"""Learning curves: stopped and taken up again they are the curve, and each seed is what `train` makes of it alone."""

import dataclasses

import pandas as pd
import pytest
import safetensors.torch
import torch

from suites.data import load_training
from suites.execution import curve
from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training.trainer import train

AT = (2, 4)


def cells(count: int = 2) -> list[Cell]:
    task = Task("sr", 2)
    budget = Budget("reduced", AT[-1], batch=2, patch=16, checkpoint_every=AT[-1])
    variant = Variant("base", "mambairv2-tiny")
    return [Cell(variant, task, s, budget, ("embedded",), ("embedded",), Protocol.official(task)) for s in range(count)]


def scores(folder) -> pd.DataFrame:
    frame = pd.read_csv(folder / "scores.csv")
    return frame.sort_values(list(frame.columns)[:4], ignore_index=True)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_stopped_curve_goes_on_and_is_each_seed_alone(tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with curve.determinism(True):
        curve.Curve(cells(), AT, whole, None, "cpu").follow(float("inf"))
        curve.Curve(cells()[1:], AT, parts, None, "cpu").follow(0.0)  # the other seed joins later
        assert not (parts / "scores.csv").exists() and (parts / "seed-1" / "checkpoint.pt").exists()
        curve.Curve(cells(), AT, parts, None, "cpu").follow(float("inf"))
    frame = scores(whole)
    assert frame.equals(scores(parts))
    images = len(load_training(("embedded",), None))
    assert set(map(tuple, frame[["seed", "iteration"]].to_numpy())) == {(s, i) for s in (0, 1) for i in AT}
    assert frame["psnr"].between(5, 60).all() and frame.groupby(["seed", "iteration"]).size().nunique() == 1 <= images
    alone = train(cells()[1], load_training(("embedded",), None), tmp_path / "alone")
    trained = safetensors.torch.load_file(whole / "seed-1" / f"step-{AT[-1]:06d}.safetensors")
    for name, tensor in safetensors.torch.load_file(alone).items():
        assert torch.equal(tensor, trained[name]), name
    assert "base/sr-x2/seed-1 4/4" in capsys.readouterr().out


def test_the_recipe_is_the_official_one():
    cell = curve.cell_of(7, 3000, "tf32x3")
    expected = Budget("reduced", 3000, batch=32, patch=64, lr=2e-4, betas=(0.9, 0.99), loss="l1", precision="tf32x3")
    assert cell.seed == 7 and dataclasses.replace(cell.budget, checkpoint_every=1000) == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seeds", "a"], "--seeds 'a'"),
        (["--at", "100,x"], "--at '100,x'"),
        (["--data", "nowhere"], "nowhere does not exist"),
    ],
)
def test_what_was_typed_wrong_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.setattr("sys.argv", ["curve", str(tmp_path / "folder"), "--device", "cpu", *arguments])
    with pytest.raises(SystemExit) as stopped:
        curve.guard(curve.main)
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(lines) == 1 and says in lines[0]
    assert not (tmp_path / "folder").exists()
