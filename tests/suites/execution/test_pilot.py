"""The pilot on a CPU: stopped and taken up, its cells are ordinary ones; the average is that of the weights."""

import json
import math
from concurrent.futures import Future
from dataclasses import replace

import pandas as pd
import pytest
import safetensors.torch
import torch

from reports.tables import index
from results import locks, measured
from results.archive import import_into
from results.evidence import Evidence
from results.store import Store
from suites import recipes
from suites.data import load_training
from suites.execution import engine, pilot
from suites.planning import scatter
from suites.training.trainer import determinism, train

LENGTH, HALF = 20, 10


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(pilot, "GUMBEL", (0, 1))
    yield
    torch.set_num_threads(threads)


def suite():
    """Two variants of two seeds, tiny."""
    changes = (f"iterations={LENGTH}", "milestones=10,18", "checkpoint_every=8", "patch=16")
    return recipes.choose("pilot", budget="smoke", changes=changes)


def follow(store, seconds=math.inf) -> pilot.Pilot:
    with determinism(True):
        work = pilot.Pilot(suite(), store, None, "cpu", 3, 1, "a command")
        work.done = work.follow(seconds)
    return work


def file_family(store) -> None:
    for family in suite().compared():
        members = [(label, cell.config()) for label, cell in family.members]
        store.add_family("pilot", family.name, family.base.config(), members)


def test_the_pilot_is_stopped_and_ends_in_ordinary_cells(tmp_path, monkeypatch, capsys):
    store = Store(tmp_path / "store")
    file_family(store)
    first = follow(store, 0.0)
    assert not first.done and 0 < first.steps < 4 * LENGTH
    states = [planned.state for planned in engine.plan(suite(), store)]
    assert set(states) == {"planned"}
    base = suite().cells[0]
    with locks.hold(store.cell_folder(base.config())):
        pass  # its lock is free again

    work = follow(store)
    assert work.done and not work.wrong and first.steps + work.steps == 4 * LENGTH
    assert [planned.state for planned in engine.plan(suite(), store)] == ["done"] * 4
    cells = store.cells()
    assert set(cells["train_steps"]) == {LENGTH} and (cells["train_seconds"] > 0).all()
    assert set(cells["command"]) == {"a command"} and cells["finished"].notna().all()
    means = store.means()
    assert means["complete"].all() and means["psnr"].between(5, 60).all()
    told = capsys.readouterr().out
    assert f"{base.name}, average, noise 1: embedded" in told and "plain-scan/sr-x2/seed-0, average, noise 0:" in told
    assert "plain-scan/sr-x2/seed-0, average, noise 1:" not in told

    # A cell trained alone has the same weights; the average is that of the weights on the way.
    folder = store.cell_folder(base.config())
    last = safetensors.torch.load_file(folder / "weights.safetensors")
    images = load_training(("embedded",), None)
    seen = {}

    class Watching(pilot.Pilot):
        def stepped(self, run):
            super().stepped(run)
            if run.cell == base:
                seen[run.step] = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}

        def submit(self, name):
            pass

    other = Store(tmp_path / "other")
    with determinism(True):
        alone = safetensors.torch.load_file(train(base, images, tmp_path / "alone"))
        watching = Watching(replace(suite(), cells=(base,)), other, None, "cpu", 1, 1, "")
        assert not watching.follow(math.inf)  # nothing is scored
    average = safetensors.torch.load_file(folder / "average.safetensors")
    middle = safetensors.torch.load_file(folder / "half.safetensors")
    assert sorted(pilot.sampled(base.budget)) == [19, 20] and last.keys() == alone.keys() == average.keys()
    for name, tensor in alone.items():
        assert torch.equal(last[name], tensor) and torch.equal(middle[name], seen[HALF][name])
        expected = torch.stack([seen[19][name].double(), seen[20][name].double()]).mean(0)
        assert torch.allclose(average[name].double(), expected, rtol=1e-6, atol=1e-9)

    # Every way of scoring is there; the stored scores are those of the last weights and the first noise.
    ways = [pd.read_parquet(pilot.scores_path(folder, w, g)) for w in pilot.WEIGHTS for g in (0, 1)]
    assert len({round(frame["psnr"].mean(), 9) for frame in ways}) == 6
    assert ways[0]["psnr"].equals(pd.read_parquet(folder / "scores.parquet")["psnr"])

    # Without a router there is no noise: scored once, which stands for every seed.
    plain = store.cell_folder(suite().cells[1].config())
    ways = [pd.read_parquet(pilot.scores_path(plain, "average", gumbel)) for gumbel in (0, 1)]
    assert suite().cells[1].variant.name == "plain-scan" and ways[0].equals(ways[1])

    # Tables, scatter, import and export know them without further ado.
    assert import_into(Store(tmp_path / "imported"), store.root).ok
    evidence = Evidence(Store(tmp_path / "imported"), tmp_path / "nothing")
    assert [one.dataset for one in scatter.measured(evidence)] == ["embedded"]
    table = index.table("smoke", evidence)
    assert {"attention + ASE + SGN", "plain scan"} <= set(table["method"])
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    pilot.export(store, "here/pilot", "command")
    frame = pd.read_csv(tmp_path / "measured" / "here" / "pilot.csv.xz")
    assert list(frame.columns) == list(pilot.COLUMNS) and len(frame) == 4 * 6 * len(ways[0])
    assert len(measured.load(tmp_path / "measured").cells) == 4


def test_a_cell_that_diverges_is_told_and_not_trained_again(tmp_path, monkeypatch, capsys):
    wild = recipes.choose("pilot", budget="smoke", changes=(f"iterations={LENGTH}", "patch=16", "lr=1e30"), seeds="0")
    monkeypatch.setattr(recipes, "choose", lambda *_, **__: wild)
    monkeypatch.setattr("sys.argv", ["pilot", str(tmp_path / "store"), "--budget", "smoke", "--device", "cpu"])
    assert pilot.main() == 1
    first = capsys.readouterr().out
    assert "the loss is nan" in first and first.splitlines()[-1].startswith("2 cells failed: ")
    assert pilot.main() == 1
    again = capsys.readouterr().out
    assert "to train it anew" in again and again.splitlines()[-1] == "2 cells failed: 0 steps in 0 s"


def test_scores_that_fail_take_no_training_with_them(tmp_path, monkeypatch, capsys):
    store = Store(tmp_path / "store")
    monkeypatch.setattr(pilot, "score", math.factorial)  # any call that these arguments do not fit
    work = follow(store)
    assert not work.done and len(work.wrong) == 2 * 6 + 2 * 3
    assert all((folder / "weights.safetensors").exists() for folder in work.folders.values())
    assert "TypeError" in capsys.readouterr().out
    status = json.loads((store.cell_folder(suite().cells[0].config()) / "status.json").read_text())
    assert status["state"] == "running" and engine.plan(suite(), store)[0].state == "planned"


def test_a_score_is_filed_for_every_seed_that_it_stands_for_and_asks_for_no_other(tmp_path):
    store = Store(tmp_path / "store")
    work = pilot.Pilot(suite(), store, None, "cpu", 1, 1, "")
    assert {name.split("/")[0]: noisy for name, noisy in work.noisy.items()} == {"base": True, "plain-scan": False}
    work.scorers = None  # to ask for another would fail: time may be up
    frame = pd.DataFrame({"dataset": ["embedded"], "image": ["one"], "psnr": [30.0], "ssim": [0.9], "seconds": [1.0]})
    future = Future()
    future.set_result(frame)
    for name, drawn, seeds in (("base/sr-x2/seed-0", 1, {1}), ("plain-scan/sr-x2/seed-0", 0, {0, 1})):
        store.open_cell(work.cells[name].config())
        (work.folders[name] / "half.safetensors").touch()
        work.collect([((name, "half", drawn), future)])
        filed = {gumbel for gumbel in (0, 1) if pilot.scores_path(work.folders[name], "half", gumbel).exists()}
        assert filed == seeds


def test_the_plan_is_the_one_asked_for():
    chosen = recipes.choose("pilot")
    assert len(chosen.cells) == 8 and {cell.seed for cell in chosen.cells} == {0, 1, 2, 3}
    budget = chosen.cells[0].budget
    assert (budget.iterations, budget.batch, budget.patch, budget.precision) == (6000, 16, 48, "tf32x3")
    assert budget.milestones == (3000, 4800, 5400, 5700) and budget.gamma == 0.5 and pilot.half(budget) == 3000
    assert sorted(pilot.sampled(budget)) == list(range(5450, 6001, 50))
    overrides = {cell.variant.name: cell.variant.overrides for cell in chosen.cells}
    assert overrides == {"base": {}, "plain-scan": {"ase": "off", "sgn": "off"}}
    assert chosen.cells[0].test_sets == ("Set14", "BSD100", "Urban12")
