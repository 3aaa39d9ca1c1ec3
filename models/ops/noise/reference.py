"""The noise as it is defined, in plain PyTorch: Philox 4x32-10 words of a counter and a key, and Gumbel noise of them.

Philox is that of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
BELOW_ONE = 1 - 2**-24  # the largest float32 below one


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words from a counter of four and a key of two, each an int64 tensor with values in 0..2^32-1 (broadcast)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for i in range(ROUNDS):
        if i:
            k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
        # int64 products wrap around modulo 2^64: their bits are those of the unsigned product
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((second >> 32) & MASK) ^ c1 ^ k0,
            second & MASK,
            ((first >> 32) & MASK) ^ c3 ^ k1,
            first & MASK,
        )
    return c0, c1, c2, c3


def gumbel(integers: Tensor) -> Tensor:
    """Standard Gumbel noise, float32, of integers 0..2^32-1: -log(-log u), u = (n + 1/2) / 2^32 kept inside (0, 1)."""
    u = ((integers.double() + 0.5) * 2.0**-32).float().clamp_(max=BELOW_ONE)
    return -torch.log(-torch.log(u))


def integers(keys: Tensor, layer: int, shape: tuple[int, int, int]) -> Tensor:
    """The words of `PhiloxGumbel.integers` in plain PyTorch, on the device of `keys` int64 [B] or [1]."""
    batch, length, classes = shape
    device = keys.device
    low, high = ((keys >> shift & MASK).expand(batch).view(batch, 1, 1) for shift in (0, 32))
    pixel = torch.arange(length, device=device).view(1, length, 1)
    block = torch.arange((classes + 3) // 4, device=device).view(1, 1, -1)
    counter = pixel & MASK, block, torch.full_like(block, layer), pixel >> 32
    words = philox(counter, (low, high))  # 4 x [B, L, ceil(T / 4)]
    return torch.stack(words, 3).flatten(2)[:, :, :classes]
