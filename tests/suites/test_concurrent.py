"""Cells of a suite side by side on a CPU: stopped, taken up, scored on the way, and filed as the engine files them."""

import json
import math
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from PIL import Image
from skimage import data

from results import records
from results.store import Store
from suites import concurrent, engine
from suites.data.training import load_training
from suites.recipes import settings
from suites.training import determinism, train

LENGTH, MARKS = 20, (10, 15)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def suite():
    """Two variants of two seeds, tiny, with one picture to be scored on."""
    chosen = concurrent.chosen("ablations", "smoke", "0,1", "no-memory/sr-x2/*,base/sr-x2/*")
    changes = (f"iterations={LENGTH}", "milestones=10,18", "checkpoint_every=8", "patch=16", "test_sets=Own")
    return settings.apply(chosen, changes)


@pytest.fixture
def work(tmp_path):
    (tmp_path / "data" / "Own").mkdir(parents=True)
    Image.fromarray(data.astronaut()[80:140, 180:250]).save(tmp_path / "data" / "Own" / "face.png")

    def follow(store, seconds=math.inf, given=None, **options) -> concurrent.Concurrent:
        with determinism(True):
            place = given or suite(), store, tmp_path / "data", "cpu"
            made = concurrent.Concurrent(*place, width=3, scorers=1, marks=MARKS, command="a command", **options)
            made.done = made.follow(seconds)
        return made

    return follow


def test_several_globs_and_seed_by_seed():
    names = [cell.name for cell in concurrent.seed_by_seed(suite().cells)]
    assert names == [f"{variant}/sr-x2/seed-{seed}" for seed in (0, 1) for variant in ("base", "no-memory")]


def test_cells_are_stopped_and_end_in_ordinary_ones(tmp_path, work):
    store = Store(tmp_path / "store")
    first = work(store, 0.0)
    assert not first.done and 0 < first.steps < 4 * LENGTH
    assert {planned.state for planned in engine.plan(suite(), store)} == {"planned"}
    second = work(store)
    assert second.done and not second.lost and first.steps + second.steps == 4 * LENGTH
    assert [planned.state for planned in engine.plan(suite(), store)] == ["done"] * 4
    cells = store.cells()
    assert set(cells["train_steps"]) == {LENGTH} and set(cells["command"]) == {"a command"}
    assert store.means()["complete"].all()
    for cell in suite().cells:
        folder = store.cell_folder(cell.config())
        curve = [records.read_frame(concurrent.marked_scores(folder, mark)) for mark in MARKS]
        last = records.read_frame(folder / "scores.parquet")
        assert all(list(frame["image"]) == list(last["image"]) for frame in curve)
        assert not any(frame["psnr"].equals(last["psnr"]) for frame in curve)
        assert not list(folder.glob("weights-*"))
    pace = [json.loads(line) for line in (store.root / concurrent.PACE).read_text().splitlines()]
    assert pace[-1]["steps"] == second.steps and {line["lanes"] for line in pace} <= {1, 2, 3}
    assert work(store).steps == 0

    cell = suite().cells[0]  # alone, it ends in the same weights
    images = load_training(("embedded",), None)
    alone = safetensors.torch.load_file(train(cell, images, tmp_path / "alone"))
    found = safetensors.torch.load_file(store.cell_folder(cell.config()) / "weights.safetensors")
    assert all(torch.equal(found[name], alone[name]) for name in alone)


def test_late_no_cell_is_begun_but_those_begun_are_finished(tmp_path, work):
    store, begun = Store(tmp_path / "store"), suite().cells[-1]
    work(store, 0.0, replace(suite(), cells=(begun,)))
    late = work(store, begin_for=0.0)
    assert not late.done and {cell.name for cell in suite().cells} - set(late.rest()) == {begun.name}
    states = {planned.cell.name: planned.state for planned in engine.plan(suite(), store)}
    assert states.pop(begun.name) == "done" and set(states.values()) == {"planned"}
