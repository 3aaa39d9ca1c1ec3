"""Compiled layers: the same numbers, one compilation for all alike. Traced only, not made into machine code."""

import pytest
import torch
from torch._dynamo.utils import counters

import models
from models.ops.noise import PhiloxGumbel


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """The whole way of a compilation up to the code generator, which would take a minute here."""
    monkeypatch.setattr("models.compilation.BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def network(**overrides) -> torch.nn.Module:
    made = models.build("mambairv2-tiny", upscale=2, depths=(3, 2), num_heads=(2, 2), backend="chunked", **overrides)
    made.noise = PhiloxGumbel([5])
    return made


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def run(made: torch.nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    y = made(image)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), list(made.parameters()))]


def test_training_is_the_same_and_compiles_plain_and_shifted_layers_once():
    made, image = network(routing="argmax"), torch.rand(2, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    expected = run(made, image)
    assert graphs() == 0  # nothing is compiled unasked
    made.compiled = True
    for a, b in zip(run(made, image), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))  # entries near zero round too
    assert graphs() == 2
    run(made, image)
    assert graphs() == 2


@pytest.mark.parametrize("ffn", ["gated", "conv"])
def test_layers_that_wait_are_compiled_too(ffn, monkeypatch):
    """As they are on a GPU: one operator takes several layers, and later readers get views."""
    monkeypatch.setattr("models.ops.fusion.uses_kernels", lambda x: True)
    made = models.build("mambairv2-tiny", upscale=2, depths=(1,), backend="chunked", routing="argmax", ffn=ffn)
    image = torch.rand(1, 3, 8, 16)
    expected = run(made, image)
    made.compiled = True
    for a, b in zip(run(made, image), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_images_of_other_sizes_need_no_other_compilation(monkeypatch):
    """As long as windows follow each other in both directions, that is."""
    monkeypatch.setattr("models.compilation.BACKEND", "eager")  # what is not sliced by size needs no more here
    made = network(routing="argmax", scans=0).eval()
    with torch.no_grad():
        for size in ((24, 32), (40, 24), (32, 56)):
            image = torch.rand(1, 3, *size)
            made.compiled = False
            expected = made(image)
            made.compiled = True
            torch.testing.assert_close(made(image), expected, rtol=1e-4, atol=1e-6)
    assert graphs() == 2


def test_noise_that_cannot_be_compiled_is_refused():
    made = network()
    made.compiled = True
    made.noise = lambda layer, shape: torch.zeros(shape)
    with pytest.raises(models.ModelError, match="set compiled = False"):
        made(torch.rand(1, 3, 8, 8))
