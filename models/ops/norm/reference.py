"""LayerNorm as it is defined, in plain PyTorch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def layer_norm(norm: nn.LayerNorm, x: Tensor, *, gelu: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """LayerNorm of x [..., C], or of GELU(x), in the type that PyTorch gives it or in `dtype`."""
    y = F.layer_norm(F.gelu(x) if gelu else x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return y if dtype is None else y.to(dtype)
