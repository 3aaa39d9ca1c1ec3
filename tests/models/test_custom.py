"""Operators go past PyTorch's dispatcher for inference on a GPU, and through it for whoever needs to know."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.ops.common import operator


@pytest.fixture
def made():
    """An operator that says which way it was called."""
    result = operator.Operator.__new__(operator.Operator)
    result.function, result.registered = (lambda *arguments: "straight"), (lambda *arguments: "dispatched")
    return result


GPU, HOST = SimpleNamespace(is_cuda=True, get_device=lambda: 0), SimpleNamespace(is_cuda=False)


@pytest.fixture(autouse=True)
def first_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_kernels_are_launched_on_the_device_of_the_first_tensor(made, monkeypatch):
    entered = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or nullcontext())
    with torch.no_grad():
        made(GPU)
        assert made(SimpleNamespace(is_cuda=True, get_device=lambda: 1, device="second")) == "straight"
    assert entered == ["second"]


def test_only_inference_on_a_gpu_goes_straight(made):
    assert made(GPU) == made(HOST) == "dispatched"
    with torch.no_grad():
        assert made(GPU, 1) == "straight"
        assert made(HOST, 1) == "dispatched"
        with FlopCounterMode(display=False):
            assert made(GPU) == "dispatched"


def test_a_compiler_sees_the_operator(made, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.no_grad():
        assert made(GPU) == "dispatched"


def test_the_decorated_function_is_an_operator_of_pytorch():
    @operator.operator("mambair_bench_test::twice")
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @twice.register_fake
    def _(x):
        return x.new_empty(x.shape)

    x = torch.ones(3)
    assert torch.equal(twice(x), 2 * x) and torch.equal(torch.ops.mambair_bench_test.twice(x), 2 * x)
    assert twice(torch.ones(3, device="meta")).shape == (3,)
