"""3x3 convolutions of tokens from all channels to all, and what is added to their result.

Kernels (models/ops/conv3x3/triton.py) take them in the products of CHOSEN on a GPU; PyTorch takes all others. There is
one custom operator, so torch.compile keeps it whole.
"""

import math

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from models.ops.common.dispatch import uses_kernels
from models.ops.common.operator import operator
from models.ops.common.precision import kernel_products

CHOSEN = ("tf32x3",)  # of "tf32x3", "tf32" and "bf16": products for which the kernels are taken
CHANNELS = 16  # from which they are: a step multiplies 16 channels, and an image has 1 or 3


def convolution(module: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """An NCHW module of tokens x [B, H, W, C], plus residual: [B, H', W', C'].

    3x3 convolutions, also those of a sequence, run in kernels where these are chosen.
    """
    products = chosen_products(x)
    if products is not None:
        if isinstance(module, nn.Sequential) and len(module):
            *before, module = module
            for step in before:
                x = convolution(step, x)
        if in_kernels(module):
            return convolve3x3(module, x, residual, products)
    y = module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return y if residual is None else y + residual


def chosen_products(x: Tensor) -> str | None:
    """How kernels multiply in convolutions of x here, or None: PyTorch takes them."""
    products = kernel_products(x) if uses_kernels(x) else None
    return products if products in CHOSEN else None


def in_kernels(module: nn.Module) -> bool:
    """Whether `module` is a convolution that the kernels take."""
    if not isinstance(module, nn.Conv2d) or module.in_channels < CHANNELS or module.bias is None:
        return False
    same = module.padding == (1, 1) and module.padding_mode == "zeros"
    return module.kernel_size == (3, 3) and module.groups == 1 and same and module.stride == module.dilation == (1, 1)


def convolve3x3(conv: nn.Conv2d, x: Tensor, residual: Tensor | None, products: str) -> Tensor:
    """conv(x) + residual in kernels: x [B, H, W, K], a convolution of `in_kernels`, residual [B, H, W, N] or None.

    Returns [B, H, W, N] in the type of x (bfloat16 for products of bf16), or what it and the residual's promote to.
    """
    if products == "bf16":
        x = x.to(torch.bfloat16)
    return _convolution(x, conv.weight, conv.bias, residual, products)


@operator("mambair_bench::convolution")
def _convolution(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, products: str) -> Tensor:
    from models.ops.conv3x3 import triton as kernels

    return kernels.forward(x, weight, bias, residual, products)


@operator("mambair_bench::convolution_backward")
def _convolution_backward(dy: Tensor, x: Tensor, weight: Tensor, products: str) -> tuple[Tensor, Tensor, Tensor]:
    from models.ops.conv3x3 import triton as kernels

    return kernels.backward_input(dy, weight, products, x.dtype), *kernels.backward_weight(dy, x, products)


@_convolution.register_fake
def _(x, weight, bias, residual, products):
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    return x.new_empty((*x.shape[:3], weight.shape[0]), dtype=dtype)


@_convolution_backward.register_fake
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


_convolution.register_autograd(_gradients, setup_context=_context)


@register_flop_formula(torch.ops.mambair_bench.convolution)
def forward_flops(x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """2 for every weight and pixel, as PyTorch counts its own."""
    return 2 * math.prod(x_shape[:3]) * math.prod(weight_shape)


@register_flop_formula(torch.ops.mambair_bench.convolution_backward)
def backward_flops(dy_shape, x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """Two such products: the gradients of x and of weight."""
    return 2 * forward_flops(x_shape, weight_shape)
