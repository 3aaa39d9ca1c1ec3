"""Compiled training: asked for by name, the same steps, and part of what a checkpoint says of its making."""

import json

import numpy as np
import pytest
import torch

from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training.step import TrainingError
from tests.suites.training.helpers import train

SR2 = Task("sr", 2)


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """No machine code, which would take a minute here."""
    monkeypatch.setattr("models.compilation.BACKEND", "eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def cell(model: str, iterations: int = 3) -> Cell:
    budget = Budget("smoke", iterations, batch=2, patch=16, lr=1e-3, checkpoint_every=2)
    overrides = {"routing": "argmax"}  # noise is drawn in compiled layers on a GPU only
    return Cell(Variant("own", model, overrides), SR2, 0, budget, ("own",), ("own",), Protocol.official(SR2))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)]


def losses(folder) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]


def test_the_steps_are_the_same(images, tmp_path):
    for compiled in (False, True):
        train(cell("mambairv2-tiny"), images, tmp_path / str(compiled), compiled=compiled)
    found, expected = losses(tmp_path / "True"), losses(tmp_path / "False")
    assert len(expected) == 3 and found == pytest.approx(expected, rel=1e-5)


def test_going_on_compiled_is_going_on_under_other_circumstances(images, tmp_path):
    class Stopped(Exception):
        pass

    def stop(runs) -> None:
        if runs[0].step == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train(cell("mambairv2-tiny", 4), images, tmp_path, on_sync=stop)
    with pytest.warns(UserWarning, match="compiled False before, True now"):
        train(cell("mambairv2-tiny", 4), images, tmp_path, compiled=True)


def test_a_network_without_compiled_layers_refuses(images, tmp_path):
    with pytest.raises(TrainingError, match="mambair-light has no layers to compile"):
        train(cell("mambair-light"), images, tmp_path, compiled=True)
