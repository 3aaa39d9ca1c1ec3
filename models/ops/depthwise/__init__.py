"""Depthwise convolutions of tokens with what follows them, c being the convolution's result:

    gate      y = GELU(gate) c      GatedFFN
    sigmoid   y = x sigmoid(c)      conditional positional encoding
    gelu      y = x + GELU(c)       ConvFFN
    silu      y = SiLU(c)           MambaIR

The kernels (triton.py) accumulate in float32 and store the type of x, with space between wide rows where kernels of
linear layers are next to read them (`models.ops.common.kernels.empty_rows`). One custom operator, so torch.compile
keeps it whole.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ops.common.dispatch import uses_kernels
from models.ops.common.kernels import empty_rows
from models.ops.common.operator import operator
from models.ops.common.precision import kernel_products


def convolve(conv: nn.Conv2d, x: Tensor, then: str, gate: Tensor | None = None) -> Tensor:
    """x [B, H, W, C] through a depthwise convolution (odd square kernel, same size) and what `then` names."""
    if uses_kernels(x) and conv.dilation == (1, 1):
        if torch.is_autocast_enabled(x.device.type):  # as convolutions do
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return _depthwise(x, conv.weight, conv.bias, gate, then, kernel_products(x) is not None)
    image = x.permute(0, 3, 1, 2)
    c = F.conv2d(image, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    c = c.permute(0, 2, 3, 1)
    if then == "gate":
        return F.gelu(gate) * c
    if then == "sigmoid":
        return x * c.sigmoid()
    return x + F.gelu(c) if then == "gelu" else F.silu(c)


@operator("mambair_bench::depthwise")
def _depthwise(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, then: str, space: bool) -> Tensor:
    from models.ops.depthwise import triton as kernels

    return kernels.forward(x, weight, bias, gate, then, space)


@operator("mambair_bench::depthwise_backward")
def _depthwise_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, then: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of weight and bias one after the other, and of gate."""
    from models.ops.depthwise import triton as kernels

    return kernels.backward(dy, x, weight, bias, gate, then)


@_depthwise.register_fake
def _(x, weight, bias, gate, then, space):
    return empty_rows(x, x.dtype, space)


@_depthwise_backward.register_fake
def _(dy, x, weight, bias, gate, then):
    dgate = x.new_empty(0) if gate is None else torch.empty_like(gate, memory_format=torch.contiguous_format)
    return x.new_empty(x.shape), weight.new_empty(weight.numel() + bias.numel(), dtype=torch.float32), dgate


def _depthwise_gradients(ctx, dy):
    x, weight, bias, gate = ctx.saved_tensors
    dx, sums, dgate = torch.ops.mambair_bench.depthwise_backward(dy, x, weight, bias, gate, ctx.then)
    dweight, dbias = sums.to(weight.dtype).split([weight.numel(), bias.numel()])
    return dx, dweight.view(weight.shape), dbias, None if gate is None else dgate, None, None


def _depthwise_context(ctx, inputs, output) -> None:
    *tensors, ctx.then, _ = inputs
    ctx.save_for_backward(*tensors)


_depthwise.register_autograd(_depthwise_gradients, setup_context=_depthwise_context)
