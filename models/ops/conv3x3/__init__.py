"""3x3 convolutions of tokens from all channels to all, and what is added to their result.

Kernels (triton.py) take them on a GPU in the products of CHOSEN; PyTorch takes all others (reference.py), but not the
gradients of weights in bfloat16. The kernels are one custom operator (operator.py), which torch.compile keeps whole.
"""

import torch
from torch import Tensor, nn

from models.ops.common.dispatch import uses_kernels
from models.ops.common.precision import kernel_products
from models.ops.conv3x3 import operator, reference

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
        if in_kernels(module) and products in CHOSEN:
            return convolve3x3(module, x, residual, products)
        if in_kernels(module):
            y = operator.WeightsInKernels.apply(x.to(torch.bfloat16), module.weight, module.bias)
            return y if residual is None else y + residual
    return reference.convolution(module, x, residual)


def chosen_products(x: Tensor) -> str | None:
    """How kernels multiply in convolutions of x here, or at least in the gradients of their weights; None: nowhere."""
    products = kernel_products(x) if uses_kernels(x) else None
    learns = products == "bf16" and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return products if products in CHOSEN or learns else None


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
    return operator.convolution(x, conv.weight, conv.bias, residual, products)
