"""The driver of analyses: what is asked of which image, what is filed, and what is not asked twice."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import models
from results import analyses as stored
from results.store import Store
from suites.analysis import run as driver
from suites.analysis.spec import Analysis, Measured, Subject
from suites.spec import Protocol, SpecError, Task

TASK = Task.parse("sr-x2")
COLUMNS = {"height": "of the degraded image, pixels", "value": "of the seed"}


def measure(calls, fails_at, network, pair, context):
    calls.append((pair.stem, context.seeds))
    if pair.stem == fails_at:
        raise KeyboardInterrupt
    rows = pd.DataFrame({"seed": list(context.seeds), "height": pair.lq.shape[0], "value": 0.5})
    return Measured(rows, {f"lq-{seed}": pair.lq for seed in context.seeds})


def make(calls, network, fails_at=None, draws=True):
    """One analysis that answers with the seeds it was asked for."""
    return [Analysis("echo", "what was asked?", partial(measure, calls, fails_at), COLUMNS, {"draws": draws}, draws)]


@pytest.fixture
def where(tmp_path: Path) -> dict:
    (tmp_path / "data" / "Two").mkdir(parents=True)
    for name, side in (("a", 16), ("b", 24)):
        pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "Two" / f"{name}.png")
    torch.save({"params": models.build("mambairv2-tiny").state_dict()}, tmp_path / "tiny.pth")
    return {"data": tmp_path / "data", "store": Store(tmp_path / "store")}


def ask(made, where, **more):
    subject = Subject("mambairv2-tiny", TASK, where["data"].parent / "tiny.pth")
    return driver.run(made, subject, ["Two"], Protocol.official(TASK), **where, **more)


def test_rows_and_arrays_are_filed_with_what_they_were_measured_on(where):
    answers = ask(partial(make, []), where, seeds=(0, 3))
    (record,), problems = stored.load(where["store"].root, measured=where["data"])
    assert not problems and record.complete and answers.new == 4
    assert record.rows[["image", "seed", "height"]].to_numpy().tolist() == [
        ["a", 0, 8],
        ["a", 3, 8],
        ["b", 0, 12],
        ["b", 3, 12],
    ]
    assert record.arrays("b")["lq-3"].shape == (12, 12, 3)
    (machine,) = record.environments.values()
    assert {"commit", "command", "started", "device", "file"} <= set(machine) and machine["file"] == "tiny.pth"
    assert record.key["weights"] == models.weights_hash(where["data"].parent / "tiny.pth")


def test_what_is_stored_is_not_asked_again_and_new_seeds_are(where):
    calls = []
    ask(partial(make, calls), where, images="a")
    again = ask(partial(make, calls), where, seeds=(0, 1))
    assert calls == [("a", (0,)), ("a", (1,)), ("b", (0, 1))] and (again.new, again.stored) == (3, 1)


def test_what_draws_nothing_is_asked_once(where):
    calls = []
    ask(partial(make, calls, draws=False), where, seeds=(0, 1, 2))
    (record,), _ = stored.load(where["store"].root, measured=where["data"])
    assert calls == [("a", (None,)), ("b", (None,))] and record.rows["seed"].isna().all()


def test_stopped_half_way_it_keeps_what_it_has_and_goes_on(where):
    calls = []
    stopped = ask(partial(make, calls, fails_at="b"), where)
    assert isinstance(stopped.stopped, KeyboardInterrupt) and stopped.new == 1
    assert ask(partial(make, calls), where).new == 1
    assert calls == [("a", (0,)), ("b", (0,)), ("b", (0,))]


@pytest.mark.parametrize("seeds", [(0,), (1,)])  # what was measured of the other picture, and what was not
def test_another_picture_of_the_same_name_is_refused_before_anything_is_measured(where, seeds):
    calls = []
    ask(partial(make, []), where, images="a")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(where["data"] / "Two" / "a.png")
    with pytest.raises(stored.folder.StoreError, match="a is another picture here"):
        ask(partial(make, calls), where, seeds=seeds)
    assert calls == []


def test_several_processes_find_what_one_finds(where, tmp_path):
    from tests.suites.analysis import shared

    alone = ask(shared.make, where)
    other = {**where, "store": Store(tmp_path / "other")}
    several = ask(shared.make, other, jobs=2)
    frames = [answers.records[0].rows.drop(columns="environment").sort_values("image") for answers in (alone, several)]
    pd.testing.assert_frame_equal(*(frame.reset_index(drop=True) for frame in frames))


def test_mistakes_are_said_before_anything_is_measured(where):
    with pytest.raises(SpecError, match="--jobs 0"):
        ask(partial(make, []), where, jobs=0)
    with pytest.raises(SpecError, match="no dataset was named"):
        driver.run(partial(make, []), None, [" "], Protocol.official(TASK), store=where["store"])
