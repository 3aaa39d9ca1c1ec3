"""LayerNorm of tokens: on a GPU in kernels, which compute in float32 and store the type they are asked for.

reference.py is the definition, triton.py has the kernels, operator.py the custom operator around them.
"""

import torch
from torch import Tensor, nn

from models.ops.common.dispatch import uses_kernels
from models.ops.common.precision import kernel_products
from models.ops.norm import operator, reference


def layer_norm(
    norm: nn.LayerNorm, x: Tensor, *, gelu: bool = False, dtype: torch.dtype | None = None, space: bool = False
) -> Tensor:
    """LayerNorm of x [..., C], or of GELU(x), computed in float32; kernels give it the type of x, under autocast too.

    dtype: another type for the result. space: between its wide rows, for a kernel that multiplies them. A compiler
    fuses PyTorch's own with its surroundings, so it is left to that.
    """
    if uses_kernels(x) and not torch.compiler.is_compiling():
        return operator.layer_norm(x, norm.weight, norm.bias, norm.eps, gelu, dtype or x.dtype, space)
    return reference.layer_norm(norm, x, gelu=gelu, dtype=dtype)


def layer_norm_forked(
    norm: nn.LayerNorm, x: Tensor, others: int, *, dtype: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    """`layer_norm` of x for linear layers, then x as often as there are others that read it (see `Operator.fork`)."""
    if uses_kernels(x) and not torch.compiler.is_compiling():
        space = kernel_products(x) is not None
        return operator.layer_norm.fork(others, x, norm.weight, norm.bias, norm.eps, False, dtype or x.dtype, space)
    return layer_norm(norm, x, dtype=dtype), *[x] * others
