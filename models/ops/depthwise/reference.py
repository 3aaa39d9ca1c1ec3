"""Depthwise convolutions of tokens and what follows them as they are defined, in plain PyTorch."""

from torch import Tensor, nn
from torch.nn import functional as F


def convolve(conv: nn.Conv2d, x: Tensor, then: str, gate: Tensor | None = None) -> Tensor:
    """x [B, H, W, C] through `conv`, which keeps the size, and what `then` names; `gate` [B, H, W, C] for "gate"."""
    image = x.permute(0, 3, 1, 2)
    c = F.conv2d(image, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    c = c.permute(0, 2, 3, 1)
    if then == "gate":
        return F.gelu(gate) * c
    if then == "sigmoid":
        return x * c.sigmoid()
    return x + F.gelu(c) if then == "gelu" else F.silu(c)
