"""Triton kernels of everything but the scan: what they compute is defined by plain PyTorch in the modules above."""

import functools
import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

WHOLE = 128  # features of the widest row that a linear layer's block holds, for LayerNorm and the gradient of GELU
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


def evenly(x: Tensor) -> tuple[Tensor, int]:
    """x [..., C] with its channels side by side and its rows evenly apart, copied only if they are not; how far apart.

    Halves or slices of the channels of a contiguous tensor are even.
    """
    apart = expected = x.stride(-2)
    even = x.stride(-1) == 1
    for size, stride in zip(x.shape[-2::-1], x.stride()[-2::-1], strict=True):
        even &= size == 1 or stride == expected
        expected *= size
    return (x, apart) if even else (x.contiguous(), x.shape[-1])


def spaced(x: Tensor, dtype: torch.dtype, space: bool = True) -> Tensor:
    """An empty tensor [..., C] like x, its rows `room(C)` apart if there is to be space: read 16 bytes at a time.

    A kernel that writes it writes zeros between its rows, for `readable` to count on.
    """
    *outer, channels = x.shape
    wide = room(channels) if space else channels
    y = x.new_empty((*outer, wide), dtype=dtype)
    return y if wide == channels else y[..., :channels]


def room(channels: int) -> int:
    """Numbers that a row of `spaced` takes: whole multiples of 8 for more than WHOLE channels."""
    return -(-channels // 8) * 8 if channels > WHOLE else channels


def readable(rows: Tensor) -> int:
    """Features that a kernel may read of every row of [M, K]: K, and the zeros behind them in what `spaced` has made.

    That is told by its memory: all of it are rows with their room, and nothing else.
    """
    (count, features), wide = rows.shape, room(rows.shape[1])
    made = rows.stride() == (wide, 1) and rows.untyped_storage().nbytes() == count * wide * rows.element_size()
    return wide if made else features


def two(gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """Up to two gradients, contiguous, as two arguments of a kernel that adds what there is."""
    return [g.contiguous() for g in gradients] + [None] * (2 - len(gradients))
