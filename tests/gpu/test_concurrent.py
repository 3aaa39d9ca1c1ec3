"""Cells on streams of one GPU, at different iterations: each ends in the bits that it has alone."""

import time
from dataclasses import replace

import pytest
import torch

from suites.data import load_training
from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training.trainer import train_cells
from tests.suites.training.helpers import train

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

BUDGET = Budget("smoke", 40, batch=4, patch=32, lr=1e-3, milestones=(20,), precision="tf32x3", checkpoint_every=15)


def test_cells_on_streams_are_cells_alone(tmp_path):
    task, cells = Task("sr", 2), []
    for seed, (model, switches) in enumerate((("light", {}), ("light", {"ase": "off"}), ("tiny", {}), ("light", {}))):
        variant = Variant(f"{model}-{seed}", f"mambairv2-{model}", switches)
        budget = replace(BUDGET, iterations=40 + 8 * (seed % 2))
        cells.append(Cell(variant, task, seed, budget, ("embedded",), ("embedded",), Protocol.official(task)))
    places = [(cell, tmp_path / f"{cell.seed}") for cell in cells]
    images = load_training(("embedded",), None)
    # The first is ahead of the others.
    assert not train_cells(places[:1], lambda names: images, until=time.monotonic(), device="cuda")
    assert train_cells(places, lambda names: images, width=3, device="cuda")
    for cell, place in places:
        alone = train(cell, images, tmp_path / "alone" / place.name, device="cuda")
        assert (place / "weights.safetensors").read_bytes() == alone.read_bytes(), cell.name
