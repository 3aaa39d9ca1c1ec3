"""A linear layer of tokens as it is defined, in plain PyTorch, in two steps between which a norm may be recomputed."""

import torch
from torch import Tensor
from torch.nn import functional as F


def project(n: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """z = n W^T + b, or GELU(z): n [..., K], weight [N, K] -> [..., N]."""
    z = F.linear(n, weight, bias)
    return F.gelu(z) if gelu else z


def add(y: Tensor, residual: Tensor | None, skip: Tensor | None, scale: Tensor | None) -> Tensor:
    """y + residual + skip scale, without those that are None: [..., N], scale [N]."""
    y = y if residual is None else residual + y
    return y if skip is None else torch.addcmul(y, skip, scale)
