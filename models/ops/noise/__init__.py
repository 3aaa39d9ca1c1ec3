"""Counter-based Gumbel noise for the routing: a pure function of (key, layer, pixel, class), the same on every device.

There is no running stream, so the noise of a pixel depends neither on the order of images nor on what else is in the
batch. reference.py is the definition in PyTorch, which runs where there is no compiled code: on a CPU that is
models/ops/native, on a GPU the kernel of the routing makes the noise itself (triton.py).
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
from models.ops.noise.reference import gumbel, integers

GRAIN = 2**18  # numbers that are worth another thread


def noise_key(*parts: int | str) -> int:
    """A 64-bit key from parts such as (seed, sample, image stem, tile): the start of the SHA-256 of their JSON."""
    text = json.dumps(list(parts), separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


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
        return native.load()
    except native.NativeError as error:
        warnings.warn(
            f"routing noise is made in plain PyTorch, slower and with the same integers: {error}", stacklevel=4
        )
        return None
