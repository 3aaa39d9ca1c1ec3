"""Linear layers of tokens with the norm before them and what follows them: one operator.

    z = n W^T + b           n = x or LayerNorm(x)
    y = GELU(z), or z + residual + skip scale

Kernels (triton.py and others) take it where products are made of TF32 or bfloat16 numbers on a GPU, as one custom
operator (operator.py); of what lies between, they keep nothing for the backward pass. In plain float32 it is PyTorch's
own operations one after the other (reference.py).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ops.common.dispatch import recomputed, uses_kernels
from models.ops.common.kernels import BLOCK_FEATURES
from models.ops.common.precision import kernel_products
from models.ops.linear import operator, reference
from models.ops.norm import layer_norm, layer_norm_forked


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: nn.LayerNorm | None = None,
    gelu: bool = False,
    residual: Tensor | None = None,
    skip: Tensor | None = None,
    scale: Tensor | None = None,
    exact: bool = False,
    unread: bool = False,
) -> Tensor:
    """x [..., K] -> y [..., N], as in the head of this module; weight [N, K], scale [N], residual and skip [..., N].

    y has the type of the residual, if there is one, else that of x or of autocast. exact: products as exact as
    float32's, never of bfloat16 numbers: tf32x3 where kernels multiply, else in the weight's type. unread: only the
    gradients of y matter, kernels leave its values undefined.
    """
    after = {"gelu": gelu, "residual": residual, "skip": skip, "scale": scale}
    return linear_forked(x, weight, bias, norm=norm, exact=exact, unread=unread, **after)[0]


def linear_forked(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    others: int = 0,
    *,
    norm: nn.LayerNorm | None = None,
    gelu: bool = False,
    residual: Tensor | None = None,
    skip: Tensor | None = None,
    scale: Tensor | None = None,
    exact: bool = False,
    unread: bool = False,
) -> tuple[Tensor, ...]:
    """`linear` of x, then x as often as there are others that read it, at most twice (see `Operator.fork`)."""
    products = kernel_products(x) if uses_kernels(x) else None
    if products is None:
        n = x.to(weight.dtype) if exact else x
        if norm is None:
            y = reference.project(n, weight, bias, gelu)
        else:
            y = recomputed(lambda n: reference.project(layer_norm(norm, n), weight, bias, gelu), n)
        return reference.add(y, residual, skip, scale), *[x] * others
    products = "tf32x3" if exact else products
    wide, read = x.shape[-1] > BLOCK_FEATURES, [x] * others
    if norm is not None and wide:
        x, *read = layer_norm_forked(norm, x, others, dtype=operator.result_type(x, None, products))
        norm, others = None, 0
    later = gelu and wide and torch.is_grad_enabled()
    residual = None if residual is None else residual.contiguous()
    skip = None if skip is None else skip.contiguous()
    arguments = x, *_affine(norm), weight, bias, gelu and not later, residual, skip, scale, products, unread
    y, *read = operator.linear.fork(others, *arguments) if others else (operator.linear(*arguments), *read)
    return F.gelu(y) if later else y, *read


def _affine(norm: nn.LayerNorm | None) -> tuple[Tensor | None, Tensor | None, float]:
    return (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
