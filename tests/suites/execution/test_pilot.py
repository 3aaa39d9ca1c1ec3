"""The pilot's cells, several at a time: stopped and taken up they are ordinary ones, scored in every way asked for."""

import io
import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import safetensors.torch
import torch
from rich.console import Console

from reports.tables import index
from results import export, measured
from results.archive import import_into
from results.evidence import Evidence
from results.store import Store
from suites import recipes
from suites.data import load_training
from suites.evaluation import ways
from suites.evaluation.ways import Way
from suites.execution import engine
from suites.planning import scatter
from suites.recipes import pilot
from suites.spec import Scoring
from suites.training import averaging
from tests.suites.conftest import SETS
from tests.suites.execution.forked import forked_cells
from tests.suites.training.helpers import train

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 20
SCORING = Scoring(half=True, average=True, noise_seeds=(0, 1))


def suite(*changes: str, seeds: str | None = None):
    """Two variants of two seeds, tiny."""
    own = (*SETS, f"iterations={LENGTH}", "milestones=10,18", "checkpoint_every=8", "patch=8", "batch=1")
    return replace(recipes.choose("pilot", budget="smoke", seeds=seeds, changes=(*own, *changes)), scoring=SCORING)


@pytest.fixture(scope="module", autouse=True)
def processes():
    with forked_cells():
        yield


@pytest.fixture(scope="module")
def go(pictures):
    def run(which, store, **options):
        told = io.StringIO()
        options = {"concurrent": 3, "scorers": 1, "threads": 1, "command": "a command", "data": pictures, **options}
        return engine.run(which, store, console=Console(file=told, width=300), **options), told.getvalue()

    return run


@pytest.fixture(scope="module")
def finished(go, tmp_path_factory):
    """A pilot that was stopped once: its store and what was printed."""
    store = Store(tmp_path_factory.mktemp("pilot") / "store")
    first, _ = go(suite(), store, seconds=2, scorers=0)  # hardly begun to train by then
    second, told = go(suite(), store)
    return store, first, second, told


def test_stopped_it_goes_on_and_ends_in_ordinary_cells(finished):
    store, first, second, told = finished
    assert first.ok and len(first.stopped) + len(first.done) == 4 and first.stopped
    assert second.ok and len(second.done) + len(second.skipped) == 4 and not second.partial
    assert [planned.state for planned in engine.plan(suite(), store)] == ["done"] * 4
    cells = store.cells()
    assert set(cells["train_steps"]) == {LENGTH} and (cells["train_seconds"] > 0).all()
    assert set(cells["command"]) == {"a command"} and cells["finished"].notna().all() and set(cells["abreast"]) == {3}
    assert store.means()["complete"].all() and store.means()["psnr"].between(5, 60).all()
    assert "base/sr-x2/seed-1: average weights, noise 1: Little" in told
    assert "plain-scan/sr-x2/seed-1: average weights, noise 0: Little" in told
    assert "plain-scan/sr-x2/seed-1: average weights, noise 1:" not in told


def test_a_cell_has_the_weights_and_the_scores_that_it_has_alone(finished, go, pictures, tmp_path):
    store, alone = finished[0], Store(tmp_path / "alone")
    base = suite().cells[0]
    outcome, _ = go(replace(suite(), cells=(base,)), alone, concurrent=1, scorers=0)
    assert outcome.ok and outcome.done == [base.name]
    one, other = store.cell_folder(base.config()), alone.cell_folder(base.config())
    names = {path.name for path in one.iterdir()} - {"lock"}
    assert names == {path.name for path in other.iterdir()} - {"lock"} and len(names) == 13
    for name in names:
        if name.endswith(".safetensors"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
        elif name.endswith(".parquet"):
            pair = [pd.read_parquet(folder / name)[["image", "pixels", "psnr", "ssim"]] for folder in (one, other)]
            assert pair[0].equals(pair[1]), name
    plain = train(base, load_training(base.train_sets, pictures), tmp_path / "plain")
    assert (one / "weights.safetensors").read_bytes() == plain.read_bytes()
    last, average = (safetensors.torch.load_file(one / f"{name}.safetensors") for name in ("weights", "average"))
    assert sorted(averaging.sampled(base.budget)) == [19, 20] and last.keys() == average.keys()
    assert any(not torch.equal(last[name], average[name]) for name in last)


def test_every_way_of_scoring_is_there(finished):
    store = finished[0]
    base, plain = suite().cells[:2]
    folder = store.cell_folder(base.config())
    paths = [ways.scores_path(folder, base, way) for way in ways.ways(base, SCORING)]
    assert paths[0] == folder / "scores.parquet" and len(paths) == 6
    assert len({round(pd.read_parquet(path)["psnr"].mean(), 9) for path in paths}) == 6
    # Without a router there is no noise: scored once, which stands for every seed.
    folder = store.cell_folder(plain.config())
    frames = [pd.read_parquet(ways.scores_path(folder, plain, Way("average", seed))) for seed in (0, 1)]
    assert plain.variant.name == "plain-scan" and frames[0].equals(frames[1])


def test_tables_scatter_import_and_export_know_them(finished, tmp_path, monkeypatch):
    store = finished[0]
    assert import_into(Store(tmp_path / "imported"), store.root).ok
    evidence = Evidence(Store(tmp_path / "imported"), tmp_path / "nothing")
    assert [one.dataset for one in scatter.measured(evidence)] == ["Little"]
    assert {"attention + ASE + SGN", "plain scan"} <= set(index.table("smoke", evidence)["method"])
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    assert len(export.export(store, "here/pilot", "command")) == 3
    frame = pd.read_csv(tmp_path / "measured" / "here" / "pilot.csv.xz")
    assert list(frame.columns) == list(export.COLUMNS)
    images = len(pd.read_parquet(store.cell_folders()[0] / "scores.parquet"))
    assert len(frame) == 4 * 6 * images and len(measured.load(tmp_path / "measured").cells) == 4


def test_what_was_trained_without_keeping_weights_is_said_and_not_tried_for_ever(finished, go, tmp_path):
    shutil.copytree(finished[0].root, tmp_path / "store")
    store, which = Store(tmp_path / "store"), suite(seeds="0")
    for folder in store.cell_folders():  # as a suite leaves them that scores the last weights alone
        for path in (*folder.glob("scores-*"), folder / "half.safetensors", folder / "average.safetensors"):
            path.unlink()
    assert go(replace(which, scoring=Scoring()), store)[0].skipped == [cell.name for cell in which.cells]
    outcome, _ = go(which, store, scorers=0)  # the last weights are there, and get their other seed of the noise
    assert outcome.ok and set(outcome.done) == {cell.name for cell in which.cells}
    assert all("average, half" in reason for reason in outcome.partial.values()) and len(outcome.partial) == 2
    assert go(which, store)[0].skipped == [cell.name for cell in which.cells]
    folder = store.cell_folder(which.cells[0].config())
    assert (folder / "scores-last-1.parquet").exists() and not (folder / "scores-half-0.parquet").exists()


def test_a_cell_that_diverges_takes_no_other_with_it(go, tmp_path):
    store, tame = Store(tmp_path), suite(seeds="0")
    wild = replace(tame.cells[0], variant=replace(tame.cells[0].variant, name="wild"))
    wild = replace(wild, budget=replace(wild.budget, lr=1e30))
    which = replace(tame, cells=(wild, *tame.cells), families=())
    outcome, _ = go(which, store, scorers=0)
    assert list(outcome.failed) == [wild.name] and "the loss is nan" in outcome.failed[wild.name]
    assert len(outcome.done) == 2
    status = json.loads((store.cell_folder(wild.config()) / "status.json").read_text())
    assert status["state"] == "failed" and status["loss"] == "nan"


def test_scores_that_fail_are_told_and_take_no_training_with_them(finished, go, tmp_path):
    shutil.copytree(finished[0].root, tmp_path / "store")
    store, which = Store(tmp_path / "store"), suite(seeds="0")
    base = which.cells[0]
    folder = store.cell_folder(base.config())
    ways.scores_path(folder, base, Way("half", 1)).unlink()
    (folder / "half.safetensors").write_bytes(b"damaged")
    outcome, _ = go(which, store)
    assert list(outcome.failed) == [base.name] and "half weights, noise 1" in outcome.failed[base.name]
    assert [planned.state for planned in engine.plan(which, store)] == ["done"] * 2


def test_the_plan_is_the_one_asked_for():
    chosen = recipes.choose("pilot")
    assert len(chosen.cells) == 8 and {cell.seed for cell in chosen.cells} == {0, 1, 2, 3}
    budget = chosen.cells[0].budget
    assert (budget.iterations, budget.batch, budget.patch, budget.precision) == (6000, 16, 48, "tf32x3")
    assert budget.milestones == (3000, 4800, 5400, 5700) and budget.gamma == 0.5
    assert chosen.scoring == pilot.SCORING and chosen.scoring.weights(budget) == {"average": 6000, "half": 3000}
    assert sorted(averaging.sampled(budget)) == list(range(5450, 6001, 50))
    overrides = {cell.variant.name: cell.variant.overrides for cell in chosen.cells}
    assert overrides == {"base": {}, "plain-scan": {"ase": "off", "sgn": "off"}}
    assert chosen.cells[0].test_sets == ("Set14", "BSD100", "Urban12")
    assert len(ways.ways(chosen.cells[0], chosen.scoring)) == 12
