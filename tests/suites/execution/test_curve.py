"""Learning curves: scored on the way, stopped and taken up, and committed as the figure reads them."""

import dataclasses
import io
import json

import pandas as pd
import pytest
from rich.console import Console

from results import export, measured
from results.store import Store
from suites import recipes
from suites.execution import engine
from suites.spec import Budget
from tests.suites.conftest import SETS
from tests.suites.execution.forked import forked_cells


@pytest.fixture(scope="module", autouse=True)
def processes():
    with forked_cells():
        yield


@pytest.fixture(scope="module")
def curve():
    changes = (*SETS, "iterations=8", "patch=8", "batch=1", "milestones=", "checkpoint_every=8")
    chosen = recipes.choose("curve", budget="smoke", seeds="0,1", changes=changes)
    return dataclasses.replace(chosen, scoring=dataclasses.replace(chosen.scoring, at=(2, 4, 8)))


def test_iterations_are_scored_and_committed_as_a_curve(curve, pictures, tmp_path, monkeypatch):
    store, options = (
        Store(tmp_path / "store"),
        {"threads": 1, "concurrent": 2, "command": "the command", "data": pictures},
    )
    stopped = engine.run(curve, store, seconds=0.1, console=Console(file=io.StringIO()), **options)
    assert stopped.ok and len(stopped.stopped) == 2
    assert engine.run(curve, store, console=Console(file=io.StringIO()), **options).ok
    folder = store.cell_folder(curve.cells[1].config())
    kept = {path.name for path in folder.glob("*[0-9].*")}
    assert kept == {f"{kind}" for i in (2, 4) for kind in (f"weights-{i}.safetensors", f"scores-{i}.parquet")}
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    export.export_others(store, "here/curve-fp32")
    frame = pd.read_csv(tmp_path / "measured" / "here" / "curve-fp32.csv")
    assert list(frame.columns) == list(export.CURVE_COLUMNS)
    assert set(map(tuple, frame[["seed", "iteration"]].to_numpy())) == {(s, i) for s in (0, 1) for i in (2, 4, 8)}
    assert frame["psnr"].between(5, 60).all() and frame.groupby(["seed", "iteration"]).size().nunique() == 1
    runs = json.loads((tmp_path / "measured" / "here" / "curve-fp32.json").read_text())["runs"]
    assert runs[-1]["command"] == "the command" and runs[-1]["versions"]["torch"] and len(runs[-1]["cells"]) == 2


def test_the_recipe_is_the_official_one():
    chosen = recipes.choose("curve", changes=("budget.precision=tf32x3",))
    cell = chosen.cells[2]
    expected = Budget("reduced", 3000, batch=32, patch=64, lr=2e-4, betas=(0.9, 0.99), loss="l1")
    budget = dataclasses.replace(cell.budget, checkpoint_every=1000, precision="fp32")
    assert cell.seed == 2 and budget == expected and cell.protocol.precision == "fp32"
    assert list(chosen.scoring.weights(cell.budget).values()) == [100, 250, 500, 1000, 1500, 2000, 2500]
