"""What the kernels of linear layers and of their gradients share: tiles of rows and weights, and how large they are."""

from typing import NamedTuple

import triton
import triton.language as tl

from models.ops.common.kernels import BLOCK_FEATURES
from models.ops.common.products import split


class Blocks(NamedTuple):
    """Rows and features of a program's tile, and its warps."""

    rows: int
    features: int
    warps: int


@triton.jit
def read_rows(x, row, rows, c, COLUMNS: tl.constexpr, S: tl.constexpr):
    """x [rows, COLUMNS], rows S apart, at these rows and columns, float32, zero outside."""
    mask = (row < rows)[:, None] & (c < COLUMNS)[None, :]
    return tl.load(x + row[:, None] * S + c[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def normalised(x, row, rows, c, eps, COLUMNS: tl.constexpr, S: tl.constexpr):
    """Rows centred over their deviation [BM, BK], and one over the deviation [BM]."""
    v = read_rows(x, row, rows, c, COLUMNS, S)
    v = tl.where((c < COLUMNS)[None, :], v - tl.sum(v, 1)[:, None] / COLUMNS, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(v * v, 1) / COLUMNS + eps)
    return v * inverse[:, None], inverse


@triton.jit
def affine(v, gamma, beta, c, COLUMNS: tl.constexpr):
    """LayerNorm of normalised rows."""
    g = tl.load(gamma + c, mask=c < COLUMNS, other=0.0)
    return v * g[None, :] + tl.load(beta + c, mask=c < COLUMNS, other=0.0)[None, :]


@triton.jit
def through_norm(grad, v, inverse, gamma, c, COLUMNS: tl.constexpr):
    """The gradient of rows, of that of their LayerNorm; v and inverse as of `normalised`."""
    grad *= tl.load(gamma + c, mask=c < COLUMNS, other=0.0)[None, :]
    return (grad - tl.sum(grad, 1)[:, None] / COLUMNS - v * (tl.sum(grad * v, 1)[:, None] / COLUMNS)) * inverse[:, None]


@triton.jit
def store_gradient(grad, first, second, dx, row, rows, c, COLUMNS: tl.constexpr):
    """grad, with what there is of `first` and `second` [rows, COLUMNS], at these rows and columns of dx."""
    if first is not None:
        grad += read_rows(first, row, rows, c, COLUMNS, COLUMNS)
    if second is not None:
        grad += read_rows(second, row, rows, c, COLUMNS, COLUMNS)
    tl.store(dx + row[:, None] * COLUMNS + c[None, :], grad, mask=(row < rows)[:, None] & (c < COLUMNS)[None, :])


@triton.jit
def read_matrix(weight, n, k, N: tl.constexpr, K: tl.constexpr, PRODUCTS: tl.constexpr):
    """weight [N, K] at [BN, BK], as a side of `dot`."""
    w = tl.load(weight + n[:, None] * K + k[None, :], mask=(n < N)[:, None] & (k < K)[None, :], other=0.0)
    return split(w, PRODUCTS)


def tile_of(blocks: Blocks | tuple[Blocks, Blocks, Blocks], features: int, out: int) -> dict:
    """Sizes of a program's tile: all features of a row, or 64 at a time, and as many of those that go out as fit."""
    whole = max(16, triton.next_power_of_2(features))
    if not isinstance(blocks, Blocks):
        blocks = blocks[0 if whole <= 64 else 1 if whole <= BLOCK_FEATURES else 2]
    wide = min(blocks.features, max(16, triton.next_power_of_2(out)))
    return {"BM": blocks.rows, "BN": wide, "BK": whole if whole <= BLOCK_FEATURES else 64, "num_warps": blocks.warps}
