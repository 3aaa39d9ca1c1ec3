"""LayerNorm of tokens, on a GPU in kernels (triton.py) that compute in float32 and store the type they are asked
for.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ops.common.dispatch import uses_kernels
from models.ops.common.kernels import empty_rows
from models.ops.common.operator import operator
from models.ops.common.precision import kernel_products


def layer_norm(
    norm: nn.LayerNorm, x: Tensor, *, gelu: bool = False, dtype: torch.dtype | None = None, space: bool = False
) -> Tensor:
    """LayerNorm of x [..., C], or of GELU(x), computed in float32; kernels give it the type of x, under autocast too.

    dtype: another type for the result. space: between its wide rows, for a kernel that multiplies them. A compiler
    fuses PyTorch's own with its surroundings, so it is left to that.
    """
    if uses_kernels(x) and not torch.compiler.is_compiling():
        return _layer_norm(x, norm.weight, norm.bias, norm.eps, gelu, dtype or x.dtype, space)
    y = F.layer_norm(F.gelu(x) if gelu else x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return y if dtype is None else y.to(dtype)


def layer_norm_forked(
    norm: nn.LayerNorm, x: Tensor, others: int, *, dtype: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    """`layer_norm` of x for linear layers, then x as often as there are others that read it (see `Operator.fork`)."""
    if uses_kernels(x) and not torch.compiler.is_compiling():
        space = kernel_products(x) is not None
        return _layer_norm.fork(others, x, norm.weight, norm.bias, norm.eps, False, dtype or x.dtype, space)
    return layer_norm(norm, x, dtype=dtype), *[x] * others


@operator("mambair_bench::layer_norm")
def _layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool, dtype: torch.dtype, space: bool
) -> Tensor:
    from models.ops.norm import triton as kernels

    return kernels.forward(x, weight, bias, eps, gelu, dtype, space)


@operator("mambair_bench::layer_norm_backward")
def _layer_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, gelu: bool, others: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Gradients of x, to which `others` are added, and of weight and bias one after the other."""
    from models.ops.norm import triton as kernels

    return kernels.backward(dy, x, weight, eps, gelu, others)


@_layer_norm.register_fake
def _(x, weight, bias, eps, gelu, dtype, space):
    return empty_rows(x, dtype, space)


@_layer_norm_backward.register_fake
def _(dy, x, weight, eps, gelu, others):
    return x.new_empty(x.shape), weight.new_empty(2 * len(weight), dtype=torch.float32)


def _layer_norm_gradients(ctx, dy, *others):
    x, weight = ctx.saved_tensors
    dx, sums = torch.ops.mambair_bench.layer_norm_backward(dy, x, weight, ctx.eps, ctx.gelu, list(others))
    return dx, *sums.to(weight.dtype).view(2, -1), None, None, None, None


def _layer_norm_context(ctx, inputs, output) -> None:
    x, weight, _, ctx.eps, ctx.gelu, *_ = inputs
    ctx.save_for_backward(x, weight)


_layer_norm.register_autograd(_layer_norm_gradients, setup_context=_layer_norm_context)
