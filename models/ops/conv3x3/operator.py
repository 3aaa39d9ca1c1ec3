"""`mambair_bench::convolution`, the custom operator of the kernels, its backward and the operations of both."""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from models.ops.common.operator import operator


@operator("mambair_bench::convolution")
def convolution(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, products: str) -> Tensor:
    from models.ops.conv3x3 import triton as kernels

    return kernels.forward(x, weight, bias, residual, products)


@operator("mambair_bench::convolution_backward")
def convolution_backward(dy: Tensor, x: Tensor, weight: Tensor, products: str) -> tuple[Tensor, Tensor, Tensor]:
    from models.ops.conv3x3 import triton as kernels

    return kernels.backward_input(dy, weight, products, x.dtype), *kernels.backward_weight(dy, x, products)


@convolution.register_fake
def _(x, weight, bias, residual, products):
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    return x.new_empty((*x.shape[:3], weight.shape[0]), dtype=dtype)


@convolution_backward.register_fake
def _(dy, x, weight, products):
    dweight = weight.new_empty(weight.shape, dtype=torch.float32)
    return x.new_empty(x.shape), dweight, weight.new_empty(weight.shape[0], dtype=torch.float32)


def _gradients(ctx, dy):
    x, weight = ctx.saved_tensors
    dx, dweight, dbias = torch.ops.mambair_bench.convolution_backward(dy, x, weight, ctx.products)
    dresidual = None if ctx.added is None else dy.to(ctx.added)
    return dx, dweight.to(weight.dtype), dbias.to(weight.dtype), dresidual, None


def _context(ctx, inputs, output) -> None:
    x, weight, _, residual, ctx.products = inputs
    ctx.added = None if residual is None else residual.dtype
    ctx.save_for_backward(x, weight)


convolution.register_autograd(_gradients, setup_context=_context)


class WeightsInKernels(torch.autograd.Function):
    """PyTorch's convolution of x [B, H, W, K] in bfloat16; the kernels make the gradients of weight and bias alone.

    cudnn's deterministic one takes several times as long as its convolution, in float32 and from copies.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rounded = weight.to(x.dtype)
        ctx.save_for_backward(x, rounded)
        return F.conv2d(x.permute(0, 3, 1, 2), rounded, bias.to(x.dtype), padding=1).permute(0, 2, 3, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from models.ops.conv3x3 import triton as kernels

        x, weight = ctx.saved_tensors
        images = dy.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2)
        ones = [1, 1]
        dx, *_ = torch.ops.aten.convolution_backward(
            *images, weight, None, ones, ones, ones, False, [0, 0], 1, [True, False, False]
        )
        return dx.permute(0, 2, 3, 1), *kernels.backward_weight(dy, x, "bf16")


@register_flop_formula(torch.ops.mambair_bench.convolution)
def forward_flops(x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """2 for every weight and pixel, as PyTorch counts its own."""
    return 2 * math.prod(x_shape[:3]) * math.prod(weight_shape)


@register_flop_formula(torch.ops.mambair_bench.convolution_backward)
def backward_flops(dy_shape, x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """Two such products: the gradients of x and of weight."""
    return 2 * forward_flops(x_shape, weight_shape)
