"""Analyses of scans and gradients on a GPU: through kernels they find what a CPU finds."""

import numpy as np
import pytest
import torch

import models
from suites.analysis import decay, erf, lam, redundancy
from suites.analysis.spec import Context, Pair
from suites.data.degradations import degrade
from suites.spec import Protocol, Task

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
TASK = Task("sr", 2)
SMALL = {decay: ("POSITIONS", 200), erf: ("SIDE", 32), lam: ("FOLD", 4), redundancy: None}


@pytest.mark.parametrize("module", SMALL, ids=lambda module: module.__name__.split(".")[-1])
def test_a_gpu_finds_what_a_cpu_finds(module, monkeypatch):
    """Within a hundredth: gradients and scans of kernels are rounded otherwise. Classes by the likeliest."""
    if SMALL[module]:
        monkeypatch.setattr(module, *SMALL[module])
    truth = np.random.default_rng(0).integers(0, 256, (96, 80, 3), np.uint8)
    pair = Pair("noise", "one", "", *degrade(TASK, truth, "matlab"))
    network = models.build("mambairv2-tiny", upscale=2, routing="argmax").eval()
    (analysis,) = module.analyses(network)
    found = []
    for device in ("cpu", "cuda"):
        where = Context(TASK, Protocol.official(TASK, routing="argmax"), torch.device(device), (None,))
        found.append(analysis.measure(network.to(device), pair, where))
    one, other = (each.rows.select_dtypes("number").drop(columns="seed", errors="ignore") for each in found)
    np.testing.assert_allclose(other, one, rtol=0.01, atol=0.01)
    for name, values in found[0].arrays.items():
        np.testing.assert_allclose(found[1].arrays[name], values, rtol=0.01, atol=0.01 * np.abs(values).max())
