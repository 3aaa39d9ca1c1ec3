"""Initial values: shared by the variants of a seed, spread as the official ones."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

import models


def test_variants_of_one_seed_share_initial_values_and_seeds_share_none():
    def state(seed: int, **overrides) -> dict[str, torch.Tensor]:
        network = models.build("mambairv2-tiny", **overrides)
        models.initialise(network, seed)
        return dict(network.named_parameters())

    base = state(3)
    for overrides in ({"scans": 2}, {"sgn": "off"}, {"ase": "off"}, {"num_tokens": 4}, {"ffn": "conv"}, {"upscale": 4}):
        other = state(3, **overrides)
        common = [name for name in base if name in other and other[name].shape == base[name].shape]
        assert len(common) > 0.5 * len(base)
        assert all(torch.equal(base[name], other[name]) for name in common)
    foreign = state(4)
    constant = ("A_logs", "Ds", "scale1", "scale2", "norm", "fc1.bias", "fc2.bias", "proj.bias", "wqkv.bias", "route")
    random = [name for name in base if not any(part in name for part in constant)]
    assert len(random) > 20
    assert not any(torch.equal(base[name], foreign[name]) for name in random)
    # Tensors of one network draw from different generators, too.
    drawn = [base[name].flatten()[:8] for name in random if base[name].numel() >= 8]
    assert not any(torch.equal(a, b) for a, b in pairwise(drawn))


def test_a_new_network_has_the_initial_values_of_seed_0_whatever_was_drawn_before():
    torch.manual_seed(9)
    network, other = models.build("mambairv2-tiny"), models.build("mambairv2-tiny")
    models.initialise(other, 0)
    assert models.weights_hash(network) == models.weights_hash(other)
    models.initialise(other, 1)
    assert models.weights_hash(network) != models.weights_hash(other)


def test_initial_values_have_the_official_distributions():
    network = models.build("mambairv2-base")
    layer = network.layers[1].residual_group["layers"][2]
    scan, E, N, T, r = layer.assm.selectiveScan, 348, 16, 128, 64
    R = math.ceil(E / 16)
    assert scan.dt_projs_weight.shape == (1, E, R)

    def uniform(x: torch.Tensor, bound: float) -> None:
        assert x.abs().max() <= bound
        assert x.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.08)
        assert abs(x.mean().item()) < 0.1 * bound

    uniform(layer.assm.embeddingB.weight, 1 / T)
    uniform(layer.embeddingA.weight, 1 / r)
    uniform(scan.x_proj_weight, E**-0.5)
    uniform(scan.dt_projs_weight, R**-0.5)
    uniform(layer.assm.CPE[0].weight, (3 * 3) ** -0.5)
    uniform(network.conv_after_body.weight, (174 * 9) ** -0.5)
    uniform(network.conv_after_body.bias, (174 * 9) ** -0.5)
    step = F.softplus(scan.dt_projs_bias)
    assert step.min() * 1.001 >= 1e-3 and step.max() <= 0.1 * 1.001
    assert step.log().mean().item() == pytest.approx((math.log(1e-3) + math.log(1e-1)) / 2, abs=0.3)
    torch.testing.assert_close(scan.A_logs.exp(), torch.arange(1.0, N + 1).expand(E, N))
    assert (scan.Ds == 1).all() and (layer.scale1 == 1e-4).all() and (layer.scale2 == 1e-4).all()
    assert (layer.norm3.weight == 1).all() and (layer.norm3.bias == 0).all() and (layer.wqkv.bias == 0).all()
    for weight in (layer.wqkv.weight, layer.win_mhsa.relative_position_bias_table, layer.assm.out_proj.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
