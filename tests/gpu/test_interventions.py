"""Interventions on a GPU: what kernels compute of a changed network is what the CPU computes of it."""

import pytest
import torch

import models
from models.ops.noise import PhiloxGumbel
from suites.analysis import interventions as module
from suites.analysis.interventions import catalogue

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NETWORK = models.build("mambairv2-tiny", depths=(2,), num_heads=(2,), window_size=8)
NAMES = [one.name for one in catalogue.interventions(NETWORK) if one.labels == "learned"]


@pytest.mark.parametrize("name", NAMES)
def test_kernels_compute_the_changed_network(name):
    generator, network = torch.Generator().manual_seed(0), models.build("mambairv2-tiny", depths=(2,), num_heads=(2,))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    images = torch.rand(2, 3, 40, 64, generator=generator)
    one = next(each for each in catalogue.interventions(network) if each.name == name)
    outputs = []
    for device in ("cpu", "cuda"):
        network.to(device).eval()
        network.noise = PhiloxGumbel([3, 4])
        with torch.no_grad(), module.applied(one, network, 1):
            outputs.append(network(images.to(device)).cpu())
    # A class is a comparison: where two are nearly equal, a pixel may have the other one.
    near = (outputs[0] - outputs[1]).abs() < 1e-3 * outputs[0].abs().max()
    assert near.float().mean() > 0.95
