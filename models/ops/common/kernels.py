"""Triton kernels of everything but the scan: what they compute is defined by plain PyTorch in the modules above."""

import functools
import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK_FEATURES = 128  # of the longest row that a linear layer's block holds whole, for LayerNorm and GELU's gradient
INSTALLED = importlib.util.find_spec("triton") is not None  # asked here: torch.compile does not trace it


@functools.cache
def unavailable(device: torch.device | str) -> str | None:
    """Why the kernels cannot run on a device, or None."""
    device = torch.device(device)
    if device.type != "cuda" or torch.version.hip:
        return f"they run on NVIDIA's GPUs, not on {'ROCm' if torch.version.hip else device.type}"
    if torch.cuda.get_device_capability(device)[0] < 8:
        return f"they need compute capability 8 or more, and {torch.cuda.get_device_name(device)} has less"
    if not INSTALLED:
        return "Triton is not installed (pip install triton)"
    return None


def uniform_rows(x: Tensor) -> tuple[Tensor, int]:
    """(x, stride): x [..., C] with contiguous channels and one stride between all its rows, copied where it has none.

    Slices of the channels of a contiguous tensor have one.
    """
    apart = expected = x.stride(-2)
    even = x.stride(-1) == 1
    for size, stride in zip(x.shape[-2::-1], x.stride()[-2::-1], strict=True):
        even &= size == 1 or stride == expected
        expected *= size
    return (x, apart) if even else (x.contiguous(), x.shape[-1])


def empty_rows(x: Tensor, dtype: torch.dtype, space: bool = True) -> Tensor:
    """An empty tensor [..., C] like x; with `space` its rows begin every `padded_width(C)` numbers, for wide reads.

    A kernel that writes it writes zeros between its rows, which `readable_width` relies on.
    """
    *outer, channels = x.shape
    wide = padded_width(channels) if space else channels
    y = x.new_empty((*outer, wide), dtype=dtype)
    return y if wide == channels else y[..., :channels]


def padded_width(channels: int) -> int:
    """Stride of rows with padding: a multiple of 8 for more than BLOCK_FEATURES channels, for aligned reads."""
    return -(-channels // 8) * 8 if channels > BLOCK_FEATURES else channels


def readable_width(rows: Tensor) -> int:
    """Features that a kernel may read of every row of [M, K]: K, and the zeros of padding where `empty_rows` made it.

    It did where the storage is M padded rows and nothing else.
    """
    (count, features), wide = rows.shape, padded_width(rows.shape[1])
    made = rows.stride() == (wide, 1) and rows.untyped_storage().nbytes() == count * wide * rows.element_size()
    return wide if made else features


def pair(gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """Up to two gradients, contiguous, and None for those that are not there: two arguments of a kernel."""
    return [g.contiguous() for g in gradients] + [None] * (2 - len(gradients))
