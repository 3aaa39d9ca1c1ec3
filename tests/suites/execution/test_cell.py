"""A real cell, end to end: trained, scored and filed by its own process; killed and continued; run again."""

import importlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

import models
from results.store import Store
from suites import recipes
from suites.data import find
from suites.evaluation.filing import score_set
from suites.execution import cell as cell_module
from suites.execution import engine
from suites.execution.verification import verify
from suites.spec import SpecError, Suite
from tests.suites.conftest import SETS
from tests.suites.execution.test_engine import wait_for

ROOT = Path(__file__).resolve().parents[3]
CHANGES = ("iterations=40", "batch=2", "patch=16", "milestones=20", "checkpoint_every=5", "tiling=16", *SETS)


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def suite() -> Suite:
    return recipes.choose("smoke", only="base/*", seeds="0", changes=CHANGES)


@pytest.fixture(scope="module")
def finished(suite, pictures, tmp_path_factory) -> Store:
    """The cell, killed in training and continued."""
    (cell,) = suite.cells
    store = Store(tmp_path_factory.mktemp("finished"))
    folder = store.open_cell(cell.config())
    where = [str(folder / "config.json"), "--results", str(store.root), "--data", str(pictures)]
    process = subprocess.Popen(
        [sys.executable, "-m", "suites.execution.engine", *where, "--threads", "1", "--deterministic"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: (folder / "checkpoint.pt").exists() or process.poll() is not None, seconds=120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "weights.safetensors").exists()
    assert engine.plan(suite, store)[0].state == "planned"
    outcome = engine.run(suite, store, data=pictures, console=quiet(), threads=1, command="a test")
    assert outcome.ok, outcome.lines()
    return store


def test_a_cell_leaves_everything_that_a_reader_needs(suite, finished):
    (cell,) = suite.cells
    folder = finished.cell_folder(cell.config())
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.json", "environment.json", "status.json"),
        *("scores.parquet", "train.jsonl", "weights.safetensors"),
    }
    row = finished.cells().iloc[0]
    assert (row["state"], row["step"], row["command"], row["threads"]) == ("done", 40, "a test", 1)
    assert row["train_steps"] == 40 and row["train_seconds"] > 0 and row["started"] <= row["finished"]
    assert row["weights"] == models.weights_hash(folder / "weights.safetensors")
    log = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 40 and log[-1]["loss"] < log[0]["loss"]
    mean = finished.means().iloc[0]
    assert mean["complete"] and mean["dataset"] == "Little"


def test_its_scores_are_those_of_its_weights(suite, pictures, finished):
    (cell,) = suite.cells
    folder = finished.cell_folder(cell.config())
    model = models.build(cell.variant.model, **cell.task.network)
    models.load_weights(model, folder / "weights.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the cell ran
    try:
        rows = score_set(model.eval(), cell.task, find("Little", pictures), cell.protocol).checked()
    finally:
        torch.set_num_threads(threads)
    stored = pd.read_parquet(folder / "scores.parquet")
    for column in ("image", "pixels", "psnr", "ssim"):
        assert stored[column].tolist() == rows[column].tolist()


def test_killed_and_continued_it_has_the_bits_of_an_undisturbed_run(suite, pictures, finished):
    (cell,) = suite.cells
    folder = finished.cell_folder(cell.config())
    assert len(json.loads((folder / "environment.json").read_text())["earlier"]) == 1
    result = verify(cell.name, finished, data=pictures, console=quiet())
    assert result.same and result.differences == {"Little": 0.0}
    assert not any("thread" in line for line in result.machine)


def test_what_cannot_be_trained_is_one_line(suite, tmp_path):
    from suites.data import DataError

    missing = recipes.choose("smoke", only="base/*", seeds="0", changes=("test_sets=Set5",))
    with pytest.raises(DataError, match="Set5"):
        engine.run(missing, Store(tmp_path), console=quiet())
    assert not list(tmp_path.iterdir())
    odd = recipes.choose("smoke", only="base/*", seeds="0", changes=("protocol.prompt_order=semantic",))
    with pytest.raises(SpecError, match="the network has prompt_order 'raster', its protocol 'semantic'"):
        engine.run(odd, Store(tmp_path), console=quiet())
    assert not list(tmp_path.iterdir())


def test_every_error_that_names_a_mistake_is_final():
    for module, name in cell_module.REFUSALS:
        assert cell_module.refuses(getattr(importlib.import_module(module), name)("a mistake"))
    assert not cell_module.refuses(RuntimeError("a crash")) and not cell_module.refuses(MemoryError())
