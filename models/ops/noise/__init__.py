"""Counter-based Gumbel noise for the routing: a pure function of (key, layer, pixel, class), the same on every device.

Philox 4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). There is no running stream, so
the noise of a pixel depends neither on the order of images nor on what else is in the batch.
"""

import ctypes
import functools
import hashlib
import json
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from models.ops import native

MASK = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
BELOW_ONE = 1 - 2**-24  # the largest float32 below one
GRAIN = 2**18  # numbers that are worth another thread


def noise_key(*parts: int | str) -> int:
    """A 64-bit key from parts such as (seed, sample, image stem, tile): the start of the SHA-256 of their JSON."""
    text = json.dumps(list(parts), separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


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


class PhiloxGumbel:
    """A source of routing noise: call it with (layer, shape) for float32 noise of that shape [B, L, T].

    keys: one 64-bit key for each image of the batch (int64 tensors hold the same bits), or a single one for all images.
    Keys that are a tensor on the device of the noise stay there: nobody waits for them.
    """

    def __init__(self, keys: Sequence[int] | Tensor):
        if not isinstance(keys, Tensor):
            keys = torch.tensor([(int(key) + 2**63) % 2**64 - 2**63 for key in keys], dtype=torch.int64)
        if not len(keys):
            raise ValueError("a noise source needs at least one key")
        self.keys = keys

    def __call__(self, layer: int, shape: tuple[int, int, int], device: torch.device | str | None = None) -> Tensor:
        """Noise of one layer for B images, L pixels and T classes. Raises ValueError when there are not B keys."""
        if torch.device(device or "cpu").type == "cpu" and (kernels := _kernels()):
            return self._compiled(kernels.philox_gumbel, layer, shape, torch.float32)
        return gumbel(self.integers(layer, shape, device))

    def integers(self, layer: int, shape: tuple[int, int, int], device: torch.device | str | None = None) -> Tensor:
        """The 32-bit words behind the noise, as int64 [B, L, T] in 0..2^32-1."""
        if torch.device(device or "cpu").type == "cpu" and (kernels := _kernels()):
            return self._compiled(kernels.philox_integers, layer, shape, torch.int64)
        return integers(self.on(device or "cpu", shape[0]), layer, shape)

    def _compiled(self, kernel, layer: int, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
        keys = self.on("cpu", shape[0]).expand(shape[0]).tolist()
        keys = (ctypes.c_uint64 * shape[0])(*(key % 2**64 for key in keys))
        sizes = [ctypes.c_int64(size) for size in shape]
        out = torch.empty(shape, dtype=dtype)
        threads = max(1, min(torch.get_num_threads(), out.numel() // GRAIN))
        kernel(keys, *sizes, ctypes.c_uint32(layer), ctypes.c_void_p(out.data_ptr()), ctypes.c_int(threads))
        return out

    def on(self, device: torch.device | str, batch: int) -> Tensor:
        """The keys of `batch` images, int64 [B] or [1]. Raises ValueError when there are not that many."""
        if len(self.keys) not in (1, batch):
            raise ValueError(f"the noise source has {len(self.keys)} keys for a batch of {batch} images")
        self.keys = self.keys.to(device, non_blocking=torch.device(device).type == "cuda")
        return self.keys


@functools.cache
def _kernels() -> ctypes.CDLL | None:
    try:
        return native.library()
    except native.NativeError as error:
        warnings.warn(
            f"routing noise is made in plain PyTorch, slower and with the same integers: {error}", stacklevel=4
        )
        return None
