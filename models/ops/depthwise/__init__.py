"""Depthwise convolutions of tokens with what follows them, c being the convolution's result:

    gate      y = GELU(gate) c      GatedFFN
    sigmoid   y = x sigmoid(c)      conditional positional encoding
    gelu      y = x + GELU(c)       ConvFFN
    silu      y = SiLU(c)           MambaIR

reference.py is the definition. The kernels (triton.py) accumulate in float32 and store the type of x, with space
between wide rows where kernels of linear layers are next to read them (`models.ops.common.kernels.empty_rows`). They
are one custom operator (operator.py), which torch.compile keeps whole.
"""

import torch
from torch import Tensor, nn

from models.ops.common.dispatch import uses_kernels
from models.ops.common.precision import kernel_products
from models.ops.depthwise import operator, reference


def convolve(conv: nn.Conv2d, x: Tensor, then: str, gate: Tensor | None = None) -> Tensor:
    """x [B, H, W, C] through a depthwise convolution (odd square kernel, same size) and what `then` names."""
    if uses_kernels(x) and conv.dilation == (1, 1):
        if torch.is_autocast_enabled(x.device.type):  # as convolutions do
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return operator.depthwise(x, conv.weight, conv.bias, gate, then, kernel_products(x) is not None)
    return reference.convolve(conv, x, then, gate)
