"""What is compiled beforehand is what training and scoring launch."""

from dataclasses import replace

import pytest
import torch

from models.ops.noise import PhiloxGumbel
from suites.evaluation import ways
from suites.execution import warmup
from suites.recipes import ablations
from suites.spec import Cell
from suites.training import step

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


def cells() -> list[Cell]:
    every = ablations.ablations("reduced-bf16", (0, 1)).cells
    return [cell for cell in every if cell.variant.name in ("base", "no-memory") and cell.task.kind == "sr"]


def test_a_step_after_it_compiles_nothing(tmp_path, monkeypatch):
    from triton import knobs

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path / "cache"))
    chosen = [replace(cell, budget=replace(cell.budget, batch=2, patch=32)) for cell in cells()]
    (line,) = warmup.warm(chosen, 4)
    assert "2 networks in 4 processes" in line
    assert "compiled before" in warmup.warm(chosen, 4)[0]
    compiled = set(tmp_path.glob("cache/*/*.cubin"))
    assert compiled
    cell = chosen[0]
    with step.determinism(True):
        warmup.walk(cell, *warmup.built(cell, "cuda"), "cuda")
        model = ways.scored_network(cell, "auto").cuda().eval()
        model.noise = PhiloxGumbel([1])
        with torch.no_grad():
            model(torch.rand(1, 3, 48, 40, device="cuda"))
    assert set(tmp_path.glob("cache/*/*.cubin")) == compiled
