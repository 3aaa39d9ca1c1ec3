"""The benchmark model: its reference is the plain network, a step leaves the weights, agreement is a share."""

import pytest
import torch

import models
from models.ops import attention
from suites.benchmark import plans
from suites.benchmark.model import LIMITS, BenchmarkModel, agreement
from suites.evaluation.tile_graphs import RECURS, TileGraphs
from suites.spec import Task

CPU = torch.device("cpu")
SR2 = Task("sr", 2)


def test_the_reference_is_the_plain_network(monkeypatch):
    seen = []
    choose = attention.resolve
    monkeypatch.setattr(attention, "resolve", lambda *a: seen.append(choose(*a)) or seen[-1])
    model = BenchmarkModel("mambairv2-tiny", {}, SR2, "inference", (8, 8), 1, CPU)
    exact = model.result("fp32", "reference", "eager")  # step by step
    seen.clear()
    assert agreement(model.reference(given=False), exact, 1e-5) == 1
    assert set(seen) == {"plain"}


def test_a_training_step_leaves_the_weights_as_they_are():
    model = BenchmarkModel("mambairv2-tiny", {}, SR2, "training", (8, 8), 2, CPU)
    before = [p.detach().clone() for p in model.network.parameters()]
    loss = float(model.call("fp32", "chunked", "eager"))
    assert all(torch.equal(a, b) for a, b in zip(before, model.network.parameters(), strict=True))
    assert loss == float(model.call("fp32", "chunked", "eager")) > 0
    with torch.no_grad():
        expected = (model.network.eval()(model.batch.lq) - model.batch.gt).abs().mean()
    assert loss == pytest.approx(float(expected), rel=1e-5)
    weights = sum(p.numel() for p in before)
    assert model.bytes() > 4 * 4 * weights  # weights, gradients, two moments


def test_tiles_are_launched_as_evaluation_launches_them(monkeypatch):
    seen = []
    whole = TileGraphs.__call__
    monkeypatch.setattr(TileGraphs, "__call__", lambda *a: seen.append(a[0]) or whole(*a))
    model = BenchmarkModel("mambairv2-tiny", {}, SR2, "inference", (8, 8), 1, CPU)
    for given in (True, False):
        eager = model.result("fp32", "chunked", "eager", given)
        assert torch.equal(model.result("fp32", "chunked", "tiles", given)[0], eager[0])
    assert len(seen) == 2 * (RECURS + 1) and len(set(map(id, seen))) == 2  # recorded, were this a GPU
    model.result("fp32", "chunked", "tiles")
    assert seen[-1] is seen[RECURS + 1] and len(seen) == 2 * (RECURS + 1) + 1
    model.take(SR2, (8, 8), 2)
    with pytest.raises(models.ModelError, match="batch 1"):
        model.call("fp32", "chunked", "tiles")


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("given", [True, False])
def test_the_reference_of_a_batch_is_taken_image_by_image(monkeypatch, mode, given):
    monkeypatch.setattr("suites.benchmark.model.PART", 128)
    model = BenchmarkModel("mambairv2-tiny", {}, SR2, mode, (8, 16), 3, CPU)
    together = model.result("fp32", "chunked", "eager", given)
    assert agreement(model.reference(given), together, 1e-4) == 1
    assert agreement(model.reference(not given), together, 1e-4) < 0.5  # another order, another result


def test_weights_that_a_bad_step_spoilt_are_mended():
    model = BenchmarkModel("mambairv2-tiny", {}, SR2, "training", (8, 8), 1, CPU)
    expected = model.result("fp32", "chunked", "eager")
    with torch.no_grad():
        next(model.network.parameters()).fill_(torch.nan)
    assert agreement(model.result("fp32", "chunked", "eager"), expected, 1.0) == 0
    assert agreement(model.result("fp32", "chunked", "eager"), expected, 1e-6) == 1


def test_agreement_is_a_share_in_units_of_the_root_mean_square():
    b = torch.tensor([3.0, -4.0])  # rms sqrt(12.5)
    a = b + torch.tensor([0.35, 0.36])
    assert agreement([a], [b], 0.1) == 0.5 and agreement([a], [b], 0.11) == 1
    assert agreement([a, b, b], [b, b, b], 0.01) == pytest.approx(4 / 6)
    assert agreement([torch.tensor([3.0, torch.inf])], [b], 100) == 0


def test_every_mode_and_precision_has_limits():
    assert {mode for mode, _ in LIMITS} == set(plans.MODES)
    assert len(LIMITS) == len(plans.MODES) * 4
