"""Convolutions of tokens as they are defined, in plain PyTorch."""

from torch import Tensor, nn


def convolution(module: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """An NCHW module of tokens x [B, H, W, C], plus residual: [B, H', W', C']."""
    y = module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return y if residual is None else y + residual
