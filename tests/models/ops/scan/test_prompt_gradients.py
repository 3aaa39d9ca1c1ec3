"""Gradients of prompts in one kernel: against float64. On a GPU, else in Triton's interpreter."""

import os

import pytest
import torch

from models.ops.scan.prompts import prompt_gradients

pytest.importorskip("triton", reason="needs Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or Triton's interpreter (TRITON_INTERPRET=1)", allow_module_level=True)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("visits", ["raster", "order", "order, at", "at"])
def test_table_and_probabilities(directions, visits, monkeypatch):
    """Two images of 70 pixels, the second tile of each not full; 5 states, 11 classes, of which one has no pixel."""
    monkeypatch.setattr("models.ops.common.dispatch.has_kernels", lambda x: x.dtype != torch.float64)
    draw = torch.Generator().manual_seed(directions)
    grad, table = torch.randn(2, directions, 70, 5, generator=draw), torch.randn(11, 5, generator=draw)
    classes = torch.randint(0, 10, (2, 70), generator=draw)
    permutations = [torch.rand(2, directions, 70, generator=draw).argsort(2) for _ in range(2)]
    order, at = (p if name in visits else None for p, name in zip(permutations, ("order", "at"), strict=True))
    grad, table, classes, order, at = (None if t is None else t.to(DEVICE) for t in (grad, table, classes, order, at))
    step = torch.arange(70, device=DEVICE).expand(2, directions, -1)
    visited, prompted = (step if t is None else t for t in (order, at))
    rows = torch.zeros(2, 70, 5, dtype=torch.float64, device=DEVICE)  # what a step visits gives to what prompts it
    for b in range(2):
        for k in range(directions):
            rows[b].index_add_(0, prompted[b, k], grad[b, k, visited[b, k]].double())
    expected = torch.zeros(11, 5, dtype=torch.float64, device=DEVICE)
    expected.index_add_(0, classes.flatten(), rows.flatten(0, 1))
    found = [prompt_gradients(grad, order, table, classes, table, at) for _ in range(2)]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(found[0], (expected, rows @ table.double().T), strict=True):
        assert a.dtype == torch.float32 and float((a - b).abs().max() / b.abs().max()) < 1e-6
    plain = prompt_gradients(grad.double(), order, table.double(), classes, table.double(), at)
    torch.testing.assert_close(plain[0], expected)
    torch.testing.assert_close(plain[1], rows @ table.double().T)
    assert prompt_gradients(grad, order, table, classes, None, at)[1] is None
