"""Gradients of prompts in one pass over pixels: of the table, by classes, and of what chose the classes.

    dp_i = sum_k dC_k,index(k, i)        dtable_t = sum of dp_i over class_i = t        dsoft_i = table dp_i

N states, T classes. Products are as exact as float32's. What is summed over pixels is summed by tiles and then over
tiles: no atomics.
"""

import triton
import triton.language as tl
from torch import Tensor

from models.ops.common.products import dot, split, transposed
from models.ops.common.sums import sum_rows

PIXELS, WARPS = 64, 4  # of a program
PRODUCTS = tl.constexpr("tf32x3")


@triton.jit
def _prompt_gradients(
    dC,  # [B, K, L, N]
    index,  # [B, K, L], or None: the pixel itself
    classes,  # [B, L]
    table,  # [T, N]
    dsoft,  # [B, L, T]
    sums,  # [tiles of the batch, T N]
    tiles,
    length,
    directions,
    N: tl.constexpr,
    T: tl.constexpr,
    P: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
):
    tile = tl.program_id(0)
    image = (tile // tiles).to(tl.int64)
    pixel = tile % tiles * P + tl.arange(0, P)
    there = pixel < length
    n, t = tl.arange(0, BN), tl.arange(0, BT)
    d = tl.zeros([P, BN], tl.float32)
    for direction in range(directions):
        first = (image * directions + direction) * length
        at = pixel.to(tl.int64) if index is None else tl.load(index + first + pixel, mask=there, other=0)
        d += tl.load(dC + (first + at)[:, None] * N + n[None, :], mask=there[:, None] & (n < N)[None, :], other=0.0)
    d = split(d, PRODUCTS)
    row = image * length + pixel
    inside = (t < T)[:, None] & (n < N)[None, :]
    prompts = split(tl.load(table + t[:, None] * N + n[None, :], mask=inside, other=0.0), PRODUCTS)
    soft = dot(d, transposed(prompts), PRODUCTS)
    tl.store(dsoft + row[:, None] * T + t[None, :], soft, mask=there[:, None] & (t < T)[None, :])
    chosen = tl.load(classes + row, mask=there, other=-1)
    member = split((t[:, None] == chosen[None, :]).to(tl.float32), PRODUCTS)  # [BT, P]
    tl.store(sums + tile.to(tl.int64) * (T * N) + t[:, None] * N + n[None, :], dot(member, d, PRODUCTS), mask=inside)


def gradients(dC: Tensor, index: Tensor | None, classes: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of table [T, N] and of `soft` [B, L, T], float32, for dC float32 [B, K, L, N], classes int64 [B, L].

    index: int64 [B, K, L], where in a direction's dC the gradient of a pixel's prompt is; None: at the pixel.
    """
    (batch, directions, length, states), count = dC.shape, len(table)
    tiles = triton.cdiv(length, PIXELS)
    dsoft = dC.new_empty(batch, length, count)
    sums = dC.new_empty(batch * tiles, count * states)
    _prompt_gradients[(batch * tiles,)](
        *(dC.contiguous(), None if index is None else index.contiguous(), classes.contiguous(), table.contiguous()),
        *(dsoft, sums, tiles, length, directions),
        **{"N": states, "T": count, "P": PIXELS},
        BN=max(16, triton.next_power_of_2(states)),
        BT=max(16, triton.next_power_of_2(count)),
        num_warps=WARPS,
    )
    return sum_rows(sums).view(count, states), dsoft
