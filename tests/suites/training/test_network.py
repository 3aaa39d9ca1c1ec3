"""A real network learns. `test_cell.py` kills one, `test_concurrent.py` stops some at every step."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import models
from models import mambairv2
from suites import data
from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training.step import TrainingError
from tests.suites.training.helpers import train

pytestmark = pytest.mark.usefixtures("one_thread")

SR2 = Task("sr", 2)


def cell(budget: Budget, task: Task = SR2, **overrides) -> Cell:
    return Cell(
        Variant("tiny", "mambairv2-tiny", overrides),
        task,
        0,
        budget,
        ("embedded",),
        ("embedded",),
        Protocol.official(task),
    )


def lines(folder: Path) -> list[str]:
    log = folder / "train.jsonl"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("task", ["sr-x2", "denoise-50", "jpeg-10"])
def test_loss_falls_on_the_embedded_images(tmp_path, task):
    images = data.load_training(("embedded",), None)
    budget = Budget("smoke", 60, batch=4, patch=16, lr=2e-3, loss="l1" if task == "sr-x2" else "charbonnier")
    train(cell(budget, Task.parse(task)), images, tmp_path)
    losses = [json.loads(line)["loss"] for line in lines(tmp_path)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_bf16_is_another_choice_than_fp32(tmp_path):
    """bf16 trains to nearly the same loss, and its parameters and moments stay float32."""
    images = data.load_training(("embedded",), None)
    losses = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        train(cell(Budget("smoke", 10, batch=4, patch=16, precision=precision)), images, folder)
        losses[precision] = [json.loads(line)["loss"] for line in lines(folder)]
    assert losses["fp32"] != losses["bf16"]
    assert torch.allclose(torch.tensor(losses["fp32"]), torch.tensor(losses["bf16"]), rtol=0.05)


def test_external_labels_reach_the_network(tmp_path, monkeypatch):
    """Superpixels as the sort key train another network than the router's classes do; what sorts nothing refuses."""
    images = data.load_training(("embedded",), None)[:2]
    spec = cell(Budget("smoke", 3, batch=4, patch=16))
    given = []
    forward = mambairv2.MambaIRv2.forward

    def watch(model: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        given.append(labels)
        return forward(model, x, labels)

    monkeypatch.setattr(mambairv2.MambaIRv2, "forward", watch)
    weights = {}
    for labels in ("learned", "slic"):
        variant = dataclasses.replace(spec.variant, labels=labels)
        path = train(dataclasses.replace(spec, variant=variant), images, tmp_path / labels)
        weights[labels] = models.weights_hash(path)
    assert weights["learned"] != weights["slic"]
    assert given[:3] == [None] * 3 and all(labels.shape == (4, 16, 16) for labels in given[3:])
    plain = dataclasses.replace(spec, variant=Variant("v1", "mambair-light", labels="slic"))
    with pytest.raises(TrainingError, match="mambair-light sorts nothing"):
        train(plain, images, tmp_path / "v1")
