"""Gradients of linear layers too wide for triton_narrow.py: `_linear_inputs` makes that of x, through GELU, whose z it
makes again, and LayerNorm; `_linear_weights` those of W, b, scale and skip.

What is summed over rows is summed by programs, whose number depends on shapes only, and then over programs, all of a
layer in one launch: no atomics.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops.common.activations import gelu_slope
from models.ops.common.kernels import pair
from models.ops.common.products import dot, split, transposed
from models.ops.common.sums import sum_rows
from models.ops.linear.triton_tiles import (
    Blocks,
    affine,
    normalised,
    read_matrix,
    read_rows,
    store_gradient,
    through_norm,
    tile_of,
)

PROGRAMS = 264  # that sum over rows: two to every processor of an H100
# As measured on an H200: for rows of up to 64 features, of up to 128, and of more.
INPUTS = Blocks(64, 32, 4), Blocks(32, 64, 4), Blocks(32, 64, 4)
WEIGHTS = Blocks(64, 64, 4), Blocks(32, 64, 4), Blocks(32, 64, 4)


@triton.jit
def _linear_inputs(
    dy,
    x,
    gamma,
    beta,
    weight,
    bias,
    first,  # gradients of x from elsewhere [rows, K], or None
    second,
    dz,  # written if GELU
    dx,
    sums,  # [programs, 2, K]: dgamma, dbeta
    rows,
    eps,
    N: tl.constexpr,
    K: tl.constexpr,
    S: tl.constexpr,  # between rows of x
    GELU: tl.constexpr,
    PRODUCTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    total_gamma, total_beta = tl.zeros([BK], tl.float32), tl.zeros([BK], tl.float32)
    for turn in range(tl.cdiv(tl.cdiv(rows, BM), tl.num_programs(0))):
        row = (tl.program_id(0).to(tl.int64) + turn * tl.num_programs(0)) * BM + tl.arange(0, BM)
        if GELU:
            if gamma is not None:
                v, _ = normalised(x, row, rows, k, eps, K, S)
                left = split(affine(v, gamma, beta, k, K), PRODUCTS)
            else:
                left = split(read_rows(x, row, rows, k, K, S), PRODUCTS)
        grad = tl.zeros([BM, BK], tl.float32)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            w = read_matrix(weight, n, k, N, K, PRODUCTS)
            g = read_rows(dy, row, rows, n, N, N)
            if GELU:
                z = dot(left, transposed(w), PRODUCTS) + tl.load(bias + n, mask=n < N, other=0.0)[None, :]
                g *= gelu_slope(z)
                tl.store(dz + row[:, None] * N + n[None, :], g, mask=(row < rows)[:, None] & (n < N)[None, :])
            grad += dot(split(g, PRODUCTS), w, PRODUCTS)
        if gamma is not None:
            v, inverse = normalised(x, row, rows, k, eps, K, S)  # again: no registers for it in between
            total_gamma += tl.sum(grad * v, 0)
            total_beta += tl.sum(grad, 0)
            grad = through_norm(grad, v, inverse, gamma, k, K)
        store_gradient(grad, first, second, dx, row, rows, k, K)
    if gamma is not None:
        sums += tl.program_id(0) * 2 * K
        tl.store(sums + k, total_gamma, mask=k < K)
        tl.store(sums + K + k, total_beta, mask=k < K)


@triton.jit
def _linear_weights(
    dz,
    x,
    gamma,
    beta,
    skip,
    scale,
    dskip,  # written if there is a skip
    sums,  # [programs, N K + N + N]: dweight, dbias, dscale
    rows,
    eps,
    N: tl.constexpr,
    K: tl.constexpr,
    S: tl.constexpr,  # between rows of x
    PRODUCTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.program_id(2) * BK + tl.arange(0, BK)
    total = tl.zeros([BN, BK], tl.float32)
    total_bias, total_scale = tl.zeros([BN], tl.float32), tl.zeros([BN], tl.float32)  # 0 without `skip`
    for turn in range(tl.cdiv(tl.cdiv(rows, BM), tl.num_programs(0))):
        row = (tl.program_id(0).to(tl.int64) + turn * tl.num_programs(0)) * BM + tl.arange(0, BM)
        if gamma is not None:
            v, _ = normalised(x, row, rows, k, eps, K, S)
            v = tl.where((row < rows)[:, None], affine(v, gamma, beta, k, K), 0.0)
        else:
            v = read_rows(x, row, rows, k, K, S)
        g = read_rows(dz, row, rows, n, N, N)
        total += dot(transposed(split(g, PRODUCTS)), split(v, PRODUCTS), PRODUCTS)
        total_bias += tl.sum(g, 0)
        if skip is not None:
            total_scale += tl.sum(g * read_rows(skip, row, rows, n, N, N), 0)
            if tl.program_id(2) == 0:
                g *= tl.load(scale + n, mask=n < N, other=0.0)[None, :]
                tl.store(dskip + row[:, None] * N + n[None, :], g, mask=(row < rows)[:, None] & (n < N)[None, :])
    sums += tl.program_id(0).to(tl.int64) * (N * K + 2 * N)
    tl.store(sums + n[:, None] * K + k[None, :], total, mask=(n < N)[:, None] & (k < K)[None, :])
    if tl.program_id(2) == 0:
        tl.store(sums + N * K + n, total_bias, mask=n < N)
        tl.store(sums + N * K + N + n, total_scale, mask=n < N)


def inputs(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    gelu: bool,
    products: str,
    others: Sequence[Tensor] = (),
    blocks: Blocks | tuple[Blocks, Blocks, Blocks] = INPUTS,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of z (dy itself without GELU), of x, to which up to two `others` are added, and of gamma and beta by
    programs [P, 2, K], None without them.

    GELU and LayerNorm: for at most BLOCK_FEATURES features.
    """
    (rows, features), out = x.shape, weight.shape[0]
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dz = torch.empty_like(dy) if gelu else dy
    cut = tile_of(blocks, features, out)
    programs = triton.cdiv(rows, cut["BM"])
    if gamma is not None:
        programs = min(2 * PROGRAMS, programs)
    sums = None if gamma is None else torch.empty((programs, 2, features), device=x.device)
    _linear_inputs[(programs, triton.cdiv(features, cut["BK"]))](
        *(dy, x, gamma, beta, weight, bias, *pair(others), dz, dx, sums, rows, eps),
        **{"N": out, "K": features, "S": x.stride(0), "GELU": gelu, "PRODUCTS": products, **cut},
    )
    return dz, dx, sums


def weights(
    dz: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    out: int,
    skip: Tensor | None,
    scale: Tensor | None,
    products: str,
    around: Tensor | None = None,
    blocks: Blocks | tuple[Blocks, Blocks, Blocks] = WEIGHTS,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of weight [N, K], bias [N], scale [N] (0 without `skip`), gamma and beta [2, K] one after the other,
    float32, the last two only with `around`, what `inputs` left of them; and of skip."""
    (rows, features), cut = x.shape, tile_of(blocks, x.shape[1], out)
    grid = triton.cdiv(out, cut["BN"]), triton.cdiv(features, cut["BK"])
    programs = max(1, min(2 * PROGRAMS // (grid[0] * grid[1]), triton.cdiv(rows, cut["BM"])))
    sums = torch.empty((programs, out * (features + 2)), device=x.device)
    dskip = None if skip is None else torch.empty_like(skip)
    _linear_weights[(programs, *grid)](
        *(dz, x, gamma, beta, skip, scale, dskip, sums, rows, eps),
        **{"N": out, "K": features, "S": x.stride(0), "PRODUCTS": products, **cut},
    )
    return sum_rows(sums, around), dskip
