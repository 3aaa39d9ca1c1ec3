"""Tokens: what waits is computed once, with what follows it; readers in any number and order get the same gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import layers
from models.ops import fusion
from models.ops.common.dispatch import kernels_allowed, uses_kernels, without_kernels
from models.ops.fusion import Tokens, gelu, recomputed, scaled


@pytest.fixture(params=["waiting", "at once"])
def waits(request, monkeypatch) -> bool:
    """Whether layers wait; operators compute in plain PyTorch either way."""
    waits = request.param == "waiting"
    monkeypatch.setattr(fusion, "uses_kernels", lambda x: waits)
    return waits


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def test_a_layer_is_its_equation(waits):
    norm, first, last = (m.double() for m in (layers.LayerNorm(6), layers.Linear(6, 8), layers.Linear(8, 6)))
    x, skip, scale = data(2, 3, 6), data(2, 3, 6, seed=1), data(6, seed=2)
    stream = Tokens(x)
    y = (stream + last(recomputed(torch.sin, gelu(first(norm(stream))))) + scaled(Tokens(skip), scale)).read()
    hidden = torch.sin(F.gelu(F.linear(F.layer_norm(x, (6,), norm.weight, norm.bias), first.weight, first.bias)))
    expected = x + F.linear(hidden, last.weight, last.bias) + skip * scale
    torch.testing.assert_close(y, expected)
    leaves = [x, skip, scale, *(p for m in (norm, first, last) for p in m.parameters())]
    for a, b in zip(*(torch.autograd.grad(z.square().sum(), leaves) for z in (y, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_first_reader_computes_and_all_others_share_it(waits, monkeypatch):
    calls, layer = [], layers.Linear(4, 4).double()
    whole = fusion.linear_forked
    monkeypatch.setattr(fusion, "linear_forked", lambda *a, **k: calls.append(k["residual"]) or whole(*a, **k))
    x = Tokens(data(5, 4))
    y = x + layer(x)
    assert calls == []
    values = [y.read() for _ in range(4)]
    assert len(calls) == (1 if waits else 0) and all(torch.equal(v, values[0]) for v in values)


def test_sums_in_any_order(waits):
    """What one operator cannot take is added after it."""
    layer, x, other, scale = layers.Linear(4, 4).double(), data(5, 4), data(5, 4, seed=1), data(4, seed=2)
    z = F.linear(x, layer.weight, layer.bias)
    a, b = Tokens(x), Tokens(other)
    torch.testing.assert_close((b + layer(a) + layer(b) + layer(a)).read(), other + 2 * z + layer(other))
    torch.testing.assert_close((a + scaled(b, scale)).read(), x + other * scale)
    torch.testing.assert_close((layer(a) + scaled(b, scale)).read(), z + other * scale)
    torch.testing.assert_close((a + layer(a) + scaled(b, scale) + scaled(a, scale)).read(), x + z + (other + x) * scale)
    torch.testing.assert_close((b + gelu(layer(a))).read(), other + F.gelu(z))
    torch.testing.assert_close(gelu(b + layer(a)).read(), F.gelu(other + z))
    product = layer(a)
    torch.testing.assert_close((a + product).read() - (b + product).read(), x - other)
    torch.testing.assert_close(product.read(), z)


@pytest.mark.parametrize("readers", [1, 2, 4])
def test_gradients_of_any_number_of_readers(readers, waits):
    layer, x = layers.Linear(4, 4).double(), data(5, 4)
    tokens = Tokens(x)
    total = sum(((i + 2) * tokens.read() for i in range(readers)), layer(tokens).read() + layer(tokens).read())
    expected = 2 * F.linear(x, layer.weight, layer.bias) + sum(range(2, readers + 2)) * x
    torch.testing.assert_close(total, expected)
    for a, b in zip(
        *(torch.autograd.grad(z.square().sum(), [x, *layer.parameters()]) for z in (total, expected)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_convolutions_wait_for_their_residual(waits):
    module = nn.Sequential(layers.conv3x3(3, 5), nn.LeakyReLU(0.2), layers.conv3x3(5, 3)).double()
    x = data(2, 4, 5, 3)
    expected = x + module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close((Tokens(x) + layers.convolved(module, Tokens(x))).read(), expected)


def test_what_was_read_lets_go_of_what_it_was_made_of(waits):
    layer = layers.Linear(4, 4).double()
    x = Tokens(data(5, 4))
    y = x + layer(x)
    y.read()
    assert not {"source", "residual", "skip"} & {name for name, value in vars(y).items() if value is not None}


def test_without_kernels_is_a_setting_of_everything_inside(monkeypatch):
    monkeypatch.setattr("models.ops.common.dispatch.has_kernels", lambda x: True)
    x = torch.zeros(1)
    assert uses_kernels(x)
    with without_kernels():
        assert not uses_kernels(x) and not kernels_allowed()
        with without_kernels(False):
            assert not uses_kernels(x)
    with pytest.raises(KeyError), without_kernels():
        raise KeyError
    assert uses_kernels(x) and kernels_allowed()


@pytest.mark.parametrize("dtype, times", [(torch.float32, 2), (torch.bfloat16, 1)])
def test_the_gated_feed_forward_is_computed_again_in_float32_alone(dtype, times, monkeypatch):
    monkeypatch.setattr("models.ops.common.dispatch.uses_kernels", lambda x: True)
    layer, called = layers.GatedFFN(4, 8).to(dtype), []
    gate = layer.gate
    monkeypatch.setattr(layer, "gate", lambda uv: called.append(uv.dtype) or gate(uv))
    layer(Tokens(torch.randn(1, 5, 6, 4, dtype=dtype, requires_grad=True), True)).read().sum().backward()
    assert called == [dtype] * times
