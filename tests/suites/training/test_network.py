"""A real network: it learns, and `kill -9` at any moment changes no bit of what it becomes."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models import mambairv2
from suites import data
from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training.step import TrainingError
from tests.suites.training.helpers import train

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
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


PROGRAM = """
import sys, json
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from suites.spec import Cell
from tests.suites.training.helpers import train

train(Cell.from_config(json.loads(sys.argv[1])), np.load(sys.argv[3]), Path(sys.argv[2]))
"""


def start(spec: Cell, folder: Path, images: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, json.dumps(spec.config()), str(folder), str(images)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def lines(folder: Path) -> list[str]:
    log = folder / "train.jsonl"
    return log.read_text().splitlines() if log.exists() else []


def kill_after_line(process: subprocess.Popen, folder: Path, count: int) -> None:
    """kill -9 a random moment after the log has `count` lines."""
    deadline = time.monotonic() + 60
    while len(lines(folder)) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.15))
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_twice_and_the_same_bits(tmp_path):
    budget = Budget("smoke", 40, batch=1, patch=16, lr=1e-3, milestones=(20,), checkpoint_every=3)
    spec = cell(budget)
    undisturbed, disturbed, images = tmp_path / "undisturbed", tmp_path / "disturbed", tmp_path / "images.npy"
    np.save(images, np.random.default_rng(0).integers(0, 256, (2, 96, 80, 3), dtype=np.uint8))
    kill_after_line(start(spec, disturbed, images), disturbed, random.randint(2, 5))
    assert not (disturbed / "weights.safetensors").exists()
    kill_after_line(start(spec, disturbed, images), disturbed, random.randint(7, 12))
    assert not (disturbed / "weights.safetensors").exists()
    last = start(spec, disturbed, images)
    assert last.wait(timeout=120) == 0, last.stderr.read()
    train(spec, np.load(images), undisturbed)
    assert (disturbed / "weights.safetensors").read_bytes() == (undisturbed / "weights.safetensors").read_bytes()
    logs = [
        [{k: json.loads(line)[k] for k in ("step", "lr", "loss")} for line in lines(f)]
        for f in (undisturbed, disturbed)
    ]
    assert logs[0] == logs[1] and [line["step"] for line in logs[0]] == list(range(2, 41, 2))
    assert sorted(path.name for path in disturbed.iterdir()) == ["train.jsonl", "weights.safetensors"]


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
