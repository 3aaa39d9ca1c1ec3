"""Cells on streams of one GPU, at different iterations: each ends in the bits that it has alone."""

import math
import time
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from suites.abreast import Abreast
from suites.data.training import load_training
from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training import determinism, train

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

BUDGET = Budget("smoke", 40, batch=4, patch=32, lr=1e-3, milestones=(20,), precision="tf32x3", checkpoint_every=15)
CELLS = ("light", {}), ("light", {"ase": "off"}), ("light", {"ase": "off", "sgn": "off", "memory": 1}), ("light", {})


class Finishing(Abreast):
    def marked(self, run):
        run.finish()


def test_cells_on_streams_are_cells_alone(tmp_path):
    task, cells = Task("sr", 2), []
    for seed, (model, switches) in enumerate(CELLS):
        variant = Variant(f"{model}-{seed}", f"mambairv2-{model}", switches)
        budget = replace(BUDGET, iterations=40 + 8 * (seed % 2))
        cells.append(Cell(variant, task, seed, budget, ("embedded",), ("embedded",), Protocol.official(task)))
    places = [(cell, tmp_path / f"{cell.seed}") for cell in cells]
    with determinism(True):
        assert not Finishing("cuda").train(places[:1], 1, time.monotonic())  # the first is ahead of the others
        assert Finishing("cuda").train(places, 3, math.inf)
        images = load_training(("embedded",), None)
        for cell, place in places:
            alone = safetensors.torch.load_file(train(cell, images, tmp_path / "alone" / place.name, device="cuda"))
            found = safetensors.torch.load_file(place / "weights.safetensors")
            assert all(torch.equal(found[name], alone[name]) for name in alone), cell.name
