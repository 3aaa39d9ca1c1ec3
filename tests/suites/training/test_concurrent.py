"""Several cells at a time: each is what it is alone, whatever the others do and however often all stop."""

import json
import math
import time
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
import safetensors.torch
import torch

from suites.data import load_training
from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training import averaging, state, trainer
from suites.training.cuda_graph import CaptureError
from suites.training.step import TrainingError
from suites.training.trainer import Hooks, train_cells
from tests.suites.training.helpers import train

pytestmark = pytest.mark.usefixtures("one_thread")

BUDGET = Budget("smoke", 5, batch=2, patch=16, lr=1e-3, milestones=(3, 4), checkpoint_every=3)


def cell(name: str, seed: int = 0, budget: Budget = BUDGET, labels: str = "learned", **overrides) -> Cell:
    task = Task("sr", 2)
    variant = Variant(name, "mambairv2-tiny", overrides, labels)
    return Cell(variant, task, seed, budget, ("embedded",), ("embedded",), Protocol.official(task))


CELLS = (  # two share their pictures, one has labels, one another length and batch
    cell("base"),
    cell("ase-off", 1, ase="off"),
    cell("kmeans", labels="kmeans"),
    cell("base", 2, replace(BUDGET, iterations=7, batch=3, milestones=())),
)


@cache
def embedded(names):
    return [image[:80, :96] for image in load_training(names, None)]  # small, for labels are made of whole pictures


@dataclass
class Seen:
    """What the hooks were called with."""

    marked: list[tuple[str, int]] = field(default_factory=list)
    steps: int = 0
    most: int = 0
    failed: dict[str, TrainingError] = field(default_factory=dict)

    def hooks(self) -> Hooks:
        return Hooks(
            self.on_step, self.on_mark, self.on_sync, lambda cell, error: self.failed.update({cell.name: error})
        )

    def on_step(self, run: state.Run) -> None:
        run.extra["steps"] = run.extra.get("steps", 0) + 1
        self.steps += 1

    def on_mark(self, run: state.Run) -> None:
        assert run.extra["steps"] == run.step and not run.unread
        self.marked.append((run.cell.name, run.step))

    def on_sync(self, runs: list[state.Run]) -> None:
        self.most = max(self.most, len(runs))

    def on_failure(self, which: Cell, error: TrainingError) -> None:
        self.failed[which.name] = error


def marks(which: Cell) -> tuple[int, ...]:
    return 2, which.budget.iterations


def places(folder):
    return [(each, folder / f"{number}") for number, each in enumerate(CELLS)]


def test_several_at_a_time_are_one_by_one_bit_for_bit_stopped_or_not(tmp_path):
    whole, parts, total = Seen(), [], 5 + 5 + 5 + 7
    assert train_cells(places(tmp_path / "whole"), embedded, width=3, marks=marks, hooks=whole.hooks())
    done = False
    while not done:
        part = Seen()  # the first takes one cell alone, so that the others stand at other iterations
        which = places(tmp_path / "parts")[: None if parts else 1]
        done = train_cells(which, embedded, width=2, until=time.monotonic(), marks=marks, hooks=part.hooks())
        parts.append(part)
        assert len(parts) < 40
    images = embedded(("embedded",))
    for number, each in enumerate(CELLS):
        alone = train(each, images, tmp_path / "alone" / f"{number}").read_bytes()
        for folder in ("whole", "parts"):
            assert (tmp_path / folder / f"{number}" / "weights.safetensors").read_bytes() == alone, (folder, each.name)
        lines = [
            [json.loads(line) for line in (tmp_path / kind / f"{number}" / "train.jsonl").read_text().splitlines()]
            for kind in ("alone", "whole", "parts")
        ]
        told = [[(line["step"], line["loss"], line["lr"]) for line in log] for log in lines]
        assert told[0] == told[1] == told[2]
    assert whole.most == 3 and whole.steps == total and not whole.failed
    assert sorted(whole.marked) == sorted((each.name, i) for each in CELLS for i in (2, each.budget.iterations))
    assert len(parts) > 3 and sum(part.steps for part in parts) == total


def test_cells_share_their_pictures_and_the_time(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(trainer, "pool_of", lambda run, images: made.append(run) or state.pool_of(run, images))
    begun = time.monotonic()
    train_cells(places(tmp_path), embedded, width=3)
    passed = time.monotonic() - begun
    assert len(made) == 2  # the labels of one need a pool of their own
    seconds = [json.loads(log.read_text().splitlines()[-1])["seconds"] for log in tmp_path.glob("*/train.jsonl")]
    assert len(seconds) == 4 and min(seconds) > 0 and sum(seconds) <= passed + 0.01


def test_a_log_line_is_written_whatever_interval_it_has(tmp_path, monkeypatch):
    """An interval that does not divide the steps between two waits."""
    monkeypatch.setattr(trainer, "LONGEST", 2)
    long = cell("base", budget=replace(BUDGET, iterations=60, patch=8, batch=1))
    assert state.log_every(long.budget) == 3
    train_cells([(long, tmp_path)], embedded)
    steps = [json.loads(line)["step"] for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert steps == list(range(3, 61, 3))


def test_a_loss_that_goes_wrong_takes_no_other_cell_with_it(tmp_path):
    wild, seen = cell("wild", 3, replace(BUDGET, lr=1e30)), Seen()
    assert train_cells(
        [(wild, tmp_path / "wild"), (CELLS[0], tmp_path / "base")], embedded, width=2, hooks=seen.hooks()
    )
    assert list(seen.failed) == [wild.name] and 2 <= seen.failed[wild.name].record["step"] <= 5
    assert (tmp_path / "base" / "weights.safetensors").exists()
    assert not (tmp_path / "wild" / "weights.safetensors").exists()
    with pytest.raises(TrainingError):
        train_cells([(wild, tmp_path / "again")], embedded)


def test_a_step_that_cannot_be_recorded_takes_no_other_cell_with_it(tmp_path):
    stuck, seen = cell("stuck", 3), Seen()

    def refuse(batch):
        raise CaptureError("not permitted")

    def on_step(run: state.Run) -> None:
        if run.cell.name == stuck.name and run.step == 2:
            run.work = refuse

    hooks = replace(seen.hooks(), on_step=on_step)
    assert train_cells([(stuck, tmp_path / "stuck"), (CELLS[0], tmp_path / "base")], embedded, width=2, hooks=hooks)
    assert list(seen.failed) == [stuck.name]
    assert (tmp_path / "base" / "weights.safetensors").exists()
    assert not (tmp_path / "stuck" / "weights.safetensors").exists()


def test_a_cell_that_cannot_begin_takes_no_other_cell_with_it(tmp_path):
    huge, seen = cell("huge", budget=replace(BUDGET, patch=4000)), Seen()
    with pytest.warns(UserWarning, match="left out"):
        assert train_cells([(huge, tmp_path / "huge"), (CELLS[0], tmp_path / "0")], embedded, hooks=seen.hooks())
    assert list(seen.failed) == [huge.name] and (tmp_path / "0" / "weights.safetensors").exists()


def test_a_loss_that_is_wrong_at_the_time_limit_loses_no_other_cell(tmp_path, monkeypatch):
    def read(run, whole=state.Run.read):
        if run.cell.name == CELLS[0].name:
            raise TrainingError("the loss is nan", run.step)
        whole(run)

    seen = Seen()
    monkeypatch.setattr(trainer._Loop, "_attend", lambda loop, one: True)
    monkeypatch.setattr(state.Run, "read", read)
    pair = places(tmp_path)[:2]
    assert not train_cells(pair, embedded, width=2, until=-math.inf, hooks=seen.hooks())
    assert list(seen.failed) == [CELLS[0].name]
    assert (tmp_path / "1" / "checkpoint.pt").exists() and not (tmp_path / "0" / "checkpoint.pt").exists()


def test_weights_are_averaged_over_the_last_tenth(tmp_path):
    """As the mean of the weights themselves, over a stop too."""
    long = cell("base", budget=replace(BUDGET, iterations=40, patch=8, batch=1, checkpoint_every=38))
    assert sorted(averaging.sampled(long.budget)) == [37, 38, 39, 40]
    weights = {}

    def on_step(run: state.Run) -> None:
        averaging.add(run)
        if run.step > 36:
            weights[run.step] = {name: tensor.clone() for name, tensor in run.tensors().items()}

    hooks = Hooks(on_step, lambda run: averaging.write(run, tmp_path / "average.safetensors"))

    def on_sync(runs: list[state.Run]) -> None:
        if runs[0].step == 38:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cells([(long, tmp_path)], embedded, hooks=Hooks(on_step, on_sync=on_sync))
    train_cells([(long, tmp_path)], embedded, marks=lambda each: (40,), hooks=hooks)
    average = safetensors.torch.load_file(tmp_path / "average.safetensors")
    assert sorted(weights) == [37, 38, 39, 40]
    for name, tensor in average.items():
        if tensor.is_floating_point():
            mean = torch.stack([weights[step][name].double() for step in weights]).mean(0)
            assert torch.allclose(tensor.double(), mean, rtol=1e-6, atol=1e-9), name
