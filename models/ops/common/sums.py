"""Sums of what programs leave, in a fixed order: all that one backward pass has to add up in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops.common import checked_cache

checked_cache.install()

ELEMENTS, ROWS, COLUMNS = 4096, 512, 64  # of a program's tile, and at most as many rows and columns of it


@triton.jit(do_not_specialize=["rows", "columns", "other_rows", "other_columns"])
def _sum_rows(
    x,
    rows,
    columns,
    other,
    other_rows,
    other_columns,
    y,  # sums of x, then those of other
    R: tl.constexpr,
    C: tl.constexpr,
):
    block = tl.program_id(0)
    blocks = tl.cdiv(columns, C)
    if block >= blocks:
        y += columns
        block -= blocks
        x, rows, columns = other, other_rows, other_columns
    c = block * C + tl.arange(0, C)
    total = tl.zeros([R, C], tl.float32)
    for first in range(0, rows, R):
        r = first + tl.arange(0, R)
        mask = (r < rows)[:, None] & (c < columns)[None, :]
        total += tl.load(x + r.to(tl.int64)[:, None] * columns + c[None, :], mask=mask, other=0.0)
    tl.store(y + c, tl.sum(total, 0), mask=c < columns)


def sum_rows(x: Tensor, other: Tensor | None = None) -> Tensor:
    """x.sum(0) of contiguous float32 x [P, ...], flat, and behind it that of `other` [Q, ...].

    PyTorch's own takes several times as long for some hundred rows.
    """
    rows, columns = len(x), x[0].numel()
    other_rows, other_columns = (0, 0) if other is None else (len(other), other[0].numel())
    y = torch.empty(columns + other_columns, device=x.device)
    tall = min(ROWS, triton.next_power_of_2(max(rows, other_rows)))
    wide = min(COLUMNS, ELEMENTS // tall)
    _sum_rows[(triton.cdiv(columns, wide) + triton.cdiv(other_columns, wide),)](
        *(x, rows, columns, x if other is None else other, other_rows, other_columns, y, tall, wide), num_warps=8
    )
    return y
