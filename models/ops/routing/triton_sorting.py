"""A stable counting sort of classes: where a pixel goes is how many pixels have a smaller class, or the same and come
before it. Three passes over 1 byte a pixel's worth of work where a general sort makes many."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops.common import checked_cache

checked_cache.install()

TILE, PART = 512, 128  # pixels of a program, and of one turn of it


@triton.jit
def _sort_count(classes, counts, tiles, length, KEYS: tl.constexpr, TILE: tl.constexpr, PART: tl.constexpr):
    program = tl.program_id(0)
    image, tile = program // tiles, program % tiles
    t = tl.arange(0, KEYS)
    total = tl.zeros([KEYS], tl.int32)
    for part in range(TILE // PART):
        pixel = tile * TILE + part * PART + tl.arange(0, PART)
        c = tl.load(classes + image.to(tl.int64) * length + pixel, mask=pixel < length, other=-1).to(tl.int32)
        total += tl.sum((c[:, None] == t[None, :]).to(tl.int32), 0)
    tl.store(counts + (image * KEYS + t) * tiles + tile, total)


@triton.jit
def _sort_place(classes, ends, order, tiles, length, KEYS: tl.constexpr, TILE: tl.constexpr, PART: tl.constexpr):
    program = tl.program_id(0)
    image, tile = program // tiles, program % tiles
    t = tl.arange(0, KEYS)
    slot = (image * KEYS + t) * tiles + tile  # of this tile's count; the one before it ends where this one starts
    base = tl.load(ends + slot - 1, mask=t * tiles + tile > 0, other=0).to(tl.int32)
    first = image.to(tl.int64) * length
    for part in range(TILE // PART):
        pixel = tile * TILE + part * PART + tl.arange(0, PART)
        c = tl.load(classes + first + pixel, mask=pixel < length, other=-1).to(tl.int32)
        same = (c[:, None] == t[None, :]).to(tl.int32)
        before = tl.cumsum(same, 0) - same + base[None, :]
        tl.store(order + first + tl.sum(same * before, 1), pixel.to(tl.int64), mask=pixel < length)
        base += tl.sum(same, 0)


def order(classes: Tensor, keys: int) -> Tensor:
    """Pixels int64 [B, L] by ascending class 0..keys-1 of contiguous `classes` [B, L], stable."""
    batch, length = classes.shape
    tiles, wide = triton.cdiv(length, TILE), triton.next_power_of_2(keys)
    counts = torch.empty((batch, wide * tiles), dtype=torch.int32, device=classes.device)
    _sort_count[(batch * tiles,)](classes, counts, tiles, length, wide, TILE, PART, num_warps=4)
    ends = counts.cumsum(1, dtype=torch.int32)
    out = torch.empty_like(classes)
    _sort_place[(batch * tiles,)](classes, ends, out, tiles, length, wide, TILE, PART, num_warps=4)
    return out
