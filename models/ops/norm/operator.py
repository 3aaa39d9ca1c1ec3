"""`mambair_bench::layer_norm`, the custom operator of the kernels, and its backward."""

import torch
from torch import Tensor

from models.ops.common.kernels import empty_rows
from models.ops.common.operator import operator


@operator("mambair_bench::layer_norm")
def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool, dtype: torch.dtype, space: bool
) -> Tensor:
    from models.ops.norm import triton as kernels

    return kernels.forward(x, weight, bias, eps, gelu, dtype, space)


@operator("mambair_bench::layer_norm_backward")
def layer_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, gelu: bool, others: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Gradients of x, to which `others` are added, and of weight and bias one after the other."""
    from models.ops.norm import triton as kernels

    return kernels.backward(dy, x, weight, eps, gelu, others)


@layer_norm.register_fake
def _(x, weight, bias, eps, gelu, dtype, space):
    return empty_rows(x, dtype, space)


@layer_norm_backward.register_fake
def _(dy, x, weight, eps, gelu, others):
    return x.new_empty(x.shape), weight.new_empty(2 * len(weight), dtype=torch.float32)


def _gradients(ctx, dy, *others):
    x, weight = ctx.saved_tensors
    dx, sums = torch.ops.mambair_bench.layer_norm_backward(dy, x, weight, ctx.eps, ctx.gelu, list(others))
    return dx, *sums.to(weight.dtype).view(2, -1), None, None, None, None


def _context(ctx, inputs, output) -> None:
    x, weight, _, ctx.eps, ctx.gelu, *_ = inputs
    ctx.save_for_backward(x, weight)


layer_norm.register_autograd(_gradients, setup_context=_context)
