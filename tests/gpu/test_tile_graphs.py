"""Tiles as CUDA graphs, and pictures whose tiles alone are on the GPU: the same bits as launched kernel by kernel."""

import numpy as np
import pytest
import torch

import models
from suites.evaluation import evaluate, tile_graphs
from suites.spec import Protocol, Task

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

TASK = Task("sr", 2)


def pictures() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.random((side, 70, 3), dtype=np.float32) for side in (64, 90, 64, 90, 64)]


@pytest.mark.parametrize("name, routing", [("mambairv2-tiny", "gumbel"), ("mambair-light", None)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graphs_and_large_pictures_change_no_bit(monkeypatch, name, routing, precision):
    network = models.build(name).cuda().eval()
    choices = {} if routing else {"routing": None, "prompt_order": None, "samples": 1}
    protocol = Protocol.official(TASK, tiling=32, precision=precision, **choices)
    eager = [evaluate.restore(network, lq, protocol, str(n), device="cuda") for n, lq in enumerate(pictures())]
    graphs = tile_graphs.TileGraphs(network, "cuda")
    again = [
        evaluate.restore(network, lq, protocol, str(n), device="cuda", graphs=graphs) for n, lq in enumerate(pictures())
    ]
    monkeypatch.setattr(evaluate, "LARGE", 1)
    large = [
        evaluate.restore(network, lq, protocol, str(n), device="cuda", graphs=graphs) for n, lq in enumerate(pictures())
    ]
    assert len(graphs.recorded) >= 4  # corners, sides and the middle of two sizes of pictures
    for one, two, three in zip(eager, again, large, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
