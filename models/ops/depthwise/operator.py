"""`mambair_bench::depthwise`, the custom operator of the kernels, and its backward."""

import torch
from torch import Tensor

from models.ops.common.kernels import empty_rows
from models.ops.common.operator import operator


@operator("mambair_bench::depthwise")
def depthwise(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, then: str, space: bool) -> Tensor:
    from models.ops.depthwise import triton as kernels

    return kernels.forward(x, weight, bias, gate, then, space)


@operator("mambair_bench::depthwise_backward")
def depthwise_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, then: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of weight and bias one after the other, and of gate."""
    from models.ops.depthwise import triton as kernels

    return kernels.backward(dy, x, weight, bias, gate, then)


@depthwise.register_fake
def _(x, weight, bias, gate, then, space):
    return empty_rows(x, x.dtype, space)


@depthwise_backward.register_fake
def _(dy, x, weight, bias, gate, then):
    dgate = x.new_empty(0) if gate is None else torch.empty_like(gate, memory_format=torch.contiguous_format)
    return x.new_empty(x.shape), weight.new_empty(weight.numel() + bias.numel(), dtype=torch.float32), dgate


def _gradients(ctx, dy):
    x, weight, bias, gate = ctx.saved_tensors
    dx, sums, dgate = torch.ops.mambair_bench.depthwise_backward(dy, x, weight, bias, gate, ctx.then)
    dweight, dbias = sums.to(weight.dtype).split([weight.numel(), bias.numel()])
    return dx, dweight.view(weight.shape), dbias, None if gate is None else dgate, None, None


def _context(ctx, inputs, output) -> None:
    *tensors, ctx.then, _ = inputs
    ctx.save_for_backward(*tensors)


depthwise.register_autograd(_gradients, setup_context=_context)
