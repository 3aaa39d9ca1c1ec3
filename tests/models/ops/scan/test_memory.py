"""Scans whose state starts anew: against the float64 loop, in every backend, and as a switch of the network."""

import itertools

import pytest
import torch

import models
from models.ops.noise import PhiloxGumbel
from models.ops.scan import Prompt, attentive_scan
from tests.models.ops.scan.test_scan import GRADIENTS, NAMES, USABLE, leaves, make, truth, weights_for
from tests.models.test_switches import tiny

PROMPTS = ("semantic", "raster", "reversed raster", None)


def scan(x, backend, memory):
    prompt = None if x["table"] is None else Prompt(x["table"], x["classes"], x["soft"], x["at"])
    return attentive_scan(*(x[n] for n in NAMES), order=x["order"], prompt=prompt, backend=backend, memory=memory)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("memory", [1, 4, 7, 30, 31, None])  # of 30 steps: 7 does not divide them, 31 reaches beyond
@pytest.mark.parametrize("prompts", PROMPTS, ids=str)
@pytest.mark.parametrize("directions", [1, 2])
def test_forward_and_every_gradient(backend, memory, prompts, directions):
    x = make(2, directions, 30, 7, 4, scale=4.0, prompt_order=prompts or "raster")
    if prompts is None:  # nor any order
        x |= {"table": torch.zeros_like(x["table"]), "order": None}
    weights, exact = weights_for(x), leaves(x, torch.float64)
    expected = truth(exact, memory)
    (expected * weights).sum().backward()
    ours = leaves(x, torch.float32)
    y = scan(ours | ({"table": None} if prompts is None else {}), backend, memory)
    (y * weights.float()).sum().backward()
    found = {"y": (y.detach(), expected.detach()), **{n: (ours[n].grad, exact[n].grad) for n in GRADIENTS}}
    for name, (got, wanted) in found.items():
        if memory == 1 and name == "A":
            assert got is None and not wanted.any()
        elif prompts is not None or name not in ("table", "soft"):
            assert torch.isfinite(got).all()
            assert float((got.double() - wanted).abs().max()) <= 3e-6 * float(wanted.abs().max()), name


@pytest.mark.parametrize("backend", USABLE)
def test_a_step_of_size_zero_remembers_nothing_either(backend):
    """Where delta underflows exp(delta A) is 1, whatever A is."""
    x = leaves(make(1, 1, 9, 5, 3), torch.float32, wanted=())
    x["delta"] = torch.full_like(x["delta"], -1e4)
    for memory in (1, 3):
        y = scan(x, backend, memory)
        torch.testing.assert_close(y[:, 0], x["D"] * x["u"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("memory", [1, 3])
def test_bfloat16_is_rounded_once(memory):
    x = make(1, 2, 16, 5, 4)
    wide = {n: t.float() if t.is_floating_point() else t for n, t in x.items()}
    narrow = wide | {n: wide[n].bfloat16() for n in ("u", "delta", "B")}
    wide |= {n: narrow[n].float() for n in ("u", "delta", "B")}
    with torch.autocast("cpu", torch.bfloat16):
        y = scan(narrow, "chunked", memory)
    assert y.dtype == torch.bfloat16 and torch.equal(y, scan(wide, "chunked", memory).bfloat16())


def test_a_memory_of_no_step_is_refused():
    x = make(1, 1, 5, 3, 2)
    with pytest.raises(ValueError, match="memory must be at least 1 step, not 0"):
        scan(x, "chunked", 0)
    for value in (0, 1.0, "all"):
        with pytest.raises(models.ModelError, match="memory"):
            models.build("mambairv2-tiny", memory=value)


SWITCHES = [
    {},
    {"scans": 2},
    {"ase": "off", "sgn": "off"},
    {"prompt_target": "delta"},
    {"prompt_target": "y", "scans": 4},
    {"prompt_order": "semantic"},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_networks_agree_with_the_plain_one(switches):
    """And with as much memory as there are pixels (256 with the padding) nothing changes, bit for bit."""
    picture = torch.rand(2, 3, 11, 13, generator=torch.Generator().manual_seed(5))
    outputs = {}
    for memory, backend in itertools.product((1, 5, 256, None), ("auto", "reference")):
        network = tiny(memory=memory, **switches)
        network.backend = backend
        with torch.no_grad():
            outputs[memory, backend] = network(picture)
    for memory in (1, 5):
        torch.testing.assert_close(outputs[memory, "auto"], outputs[memory, "reference"], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(outputs[memory, "auto"], outputs[None, "auto"], atol=1e-3)
    assert torch.equal(outputs[256, "auto"], outputs[None, "auto"])


def test_without_memory_and_without_prompts_pixels_do_not_meet_in_the_scan():
    """What one pixel changes reaches as far as window, convolutions and nothing else; with memory all that follow."""
    reached = {}
    for memory in (1, None):
        network = tiny(memory=memory, ase="off", sgn="off", window_size=4, depths=(1,), num_heads=(2,))
        picture = torch.rand(1, 3, 64, 8, generator=torch.Generator().manual_seed(1))
        changed = picture.clone()
        changed[0, :, 0, 0] = 1 - changed[0, :, 0, 0]
        with torch.no_grad():
            rows = (network(picture) != network(changed)).any(1).any(-1).flatten().nonzero()
        reached[memory] = int(rows.max()) // 2
    assert reached[1] < 24 < reached[None]


def test_every_parameter_but_the_decay_learns():
    network = tiny(memory=1, routing="gumbel").train()
    network.noise = PhiloxGumbel([1, 2])
    network(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))).square().mean().backward()
    still = {name.rpartition(".")[2] for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == {"A_logs"}
