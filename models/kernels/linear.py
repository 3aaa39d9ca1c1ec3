"""Linear layers of tokens with what comes before and after them, in one pass over memory:

    z = n W^T + b           n = x, or LayerNorm(x) of rows that fit into one block
    y = z, or GELU(z), then + residual, then + skip scale

Rows M, K features in, N out. A program holds BM rows and takes blocks of BN features out; rows of more than WHOLE
features are `_linear_wide`'s, BK features at a time, with W split for `dot` once, not by every program
(`_linear_factors`). Gradients: `_linear_inputs` makes that of x (through GELU, whose z it makes again, and LayerNorm),
`_linear_weights` those of W, b, scale and skip. What is summed over rows is summed by programs, whose number depends on
shapes only, and then over programs, all of a layer in one launch: no atomics.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels import WHOLE, two
from models.kernels.activations import gelu_slope, normal
from models.kernels.products import dot, factor, split, transposed
from models.kernels.sums import sum_rows

PROGRAMS = 264  # that sum over rows: two to every processor of an H100


class Blocks(NamedTuple):
    """Rows and features of a program's tile, and its warps."""

    rows: int
    features: int
    warps: int


class Steps(NamedTuple):
    """Rows and features out of a program's tile, features in of a step, warps, and steps that are loaded ahead."""

    rows: int
    features: int
    step: int
    warps: int
    stages: int


# As measured on an H200 (WIDE: an H100; tf32 as bf16): for rows of up to 64 features, of up to WHOLE, and of more.
FORWARD = Blocks(64, 32, 4), Blocks(64, 64, 4)
WIDE = {"tf32x3": Steps(64, 128, 32, 4, 3), "tf32": Steps(64, 128, 64, 4, 3), "bf16": Steps(64, 128, 64, 4, 3)}
FEW = 192  # features out up to which a program of `_linear_wide` takes half as many
INPUTS = Blocks(64, 32, 4), Blocks(32, 64, 4), Blocks(32, 64, 4)
WEIGHTS = Blocks(64, 64, 4), Blocks(32, 64, 4), Blocks(32, 64, 4)


@triton.jit
def _tile(x, row, rows, c, COLUMNS: tl.constexpr, S: tl.constexpr):
    """x [rows, COLUMNS], rows S apart, at these rows and columns, float32, zero outside."""
    mask = (row < rows)[:, None] & (c < COLUMNS)[None, :]
    return tl.load(x + row[:, None] * S + c[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _normalised(x, row, rows, c, eps, COLUMNS: tl.constexpr, S: tl.constexpr):
    """Rows centred over their deviation [BM, BK], and one over the deviation [BM]."""
    v = _tile(x, row, rows, c, COLUMNS, S)
    v = tl.where((c < COLUMNS)[None, :], v - tl.sum(v, 1)[:, None] / COLUMNS, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(v * v, 1) / COLUMNS + eps)
    return v * inverse[:, None], inverse


@triton.jit
def _affine(v, gamma, beta, c, COLUMNS: tl.constexpr):
    """LayerNorm of normalised rows."""
    g = tl.load(gamma + c, mask=c < COLUMNS, other=0.0)
    return v * g[None, :] + tl.load(beta + c, mask=c < COLUMNS, other=0.0)[None, :]


@triton.jit
def _matrix(weight, n, k, N: tl.constexpr, K: tl.constexpr, PRODUCTS: tl.constexpr):
    """weight [N, K] at [BN, BK], as a side of `dot`."""
    w = tl.load(weight + n[:, None] * K + k[None, :], mask=(n < N)[:, None] & (k < K)[None, :], other=0.0)
    return split(w, PRODUCTS)


@triton.jit
def _stored(z, row, rows, n, bias, residual, skip, scale, y, N: tl.constexpr, GELU: tl.constexpr):
    """Everything that follows the product."""
    if bias is not None:
        z += tl.load(bias + n, mask=n < N, other=0.0)[None, :]
    if GELU:
        z *= normal(z)
    if residual is not None:
        z += _tile(residual, row, rows, n, N, N)
    if skip is not None:
        z += _tile(skip, row, rows, n, N, N) * tl.load(scale + n, mask=n < N, other=0.0)[None, :]
    tl.store(y + row[:, None] * N + n[None, :], z, mask=(row < rows)[:, None] & (n < N)[None, :])


@triton.jit
def _linear(
    x,
    gamma,  # None: no LayerNorm
    beta,
    weight,
    bias,
    residual,
    skip,
    scale,
    y,
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
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    k = tl.arange(0, BK)
    if gamma is not None:
        v, _ = _normalised(x, row, rows, k, eps, K, S)
        whole = split(_affine(v, gamma, beta, k, K), PRODUCTS)
    else:
        whole = split(_tile(x, row, rows, k, K, S), PRODUCTS)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        z = dot(whole, transposed(_matrix(weight, n, k, N, K, PRODUCTS)), PRODUCTS)
        _stored(z, row, rows, n, bias, residual, skip, scale, y, N, GELU)


@triton.jit
def _linear_factors(
    weight,
    factors,  # [1 or 2, BN blocks, KP]: of `split`, zero past N and K
    N: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    PRODUCTS: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    high, low = _matrix(weight, n, k, N, K, PRODUCTS)
    at = n[:, None] * KP + k[None, :]
    tl.store(factors + at, high)
    if PRODUCTS == "tf32x3":
        tl.store(factors + tl.num_programs(0) * BN * KP + at, low)


@triton.jit
def _linear_wide(
    x,
    factors,
    bias,
    residual,
    skip,
    scale,
    y,
    rows,
    N: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    S: tl.constexpr,  # between rows of x
    GELU: tl.constexpr,
    PRODUCTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    across: tl.constexpr = (N + BN - 1) // BN  # programs that share rows; side by side, so that these are read once
    row = (tl.program_id(0) // across).to(tl.int64) * BM + tl.arange(0, BM)
    n = tl.program_id(0) % across * BN + tl.arange(0, BN)
    z = tl.zeros([BM, BN], tl.float32)
    for first in range(0, KP, BK):
        k = first + tl.arange(0, BK)
        mask = (row < rows)[:, None] & (k < K)[None, :]
        v = tl.load(x + row[:, None] * S + k[None, :], mask=mask, other=0.0)
        part = split(v if PRODUCTS == "bf16" else v.to(tl.float32), PRODUCTS)
        at = n[:, None] * KP + k[None, :]
        high = factor(tl.load(factors + at))
        low = high
        if PRODUCTS == "tf32x3":
            low = tl.load(factors + across * BN * KP + at)
        z += dot(part, transposed((high, low)), PRODUCTS)
    _stored(z, row, rows, n, bias, residual, skip, scale, y, N, GELU)


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
                v, _ = _normalised(x, row, rows, k, eps, K, S)
                left = split(_affine(v, gamma, beta, k, K), PRODUCTS)
            else:
                left = split(_tile(x, row, rows, k, K, S), PRODUCTS)
        grad = tl.zeros([BM, BK], tl.float32)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            w = _matrix(weight, n, k, N, K, PRODUCTS)
            g = _tile(dy, row, rows, n, N, N)
            if GELU:
                z = dot(left, transposed(w), PRODUCTS) + tl.load(bias + n, mask=n < N, other=0.0)[None, :]
                g *= gelu_slope(z)
                tl.store(dz + row[:, None] * N + n[None, :], g, mask=(row < rows)[:, None] & (n < N)[None, :])
            grad += dot(split(g, PRODUCTS), w, PRODUCTS)
        if gamma is not None:
            v, inverse = _normalised(x, row, rows, k, eps, K, S)  # again: no registers for it in between
            total_gamma += tl.sum(grad * v, 0)
            total_beta += tl.sum(grad, 0)
            grad *= tl.load(gamma + k, mask=k < K, other=0.0)[None, :]
            grad = (grad - tl.sum(grad, 1)[:, None] / K - v * (tl.sum(grad * v, 1)[:, None] / K)) * inverse[:, None]
        if first is not None:
            grad += _tile(first, row, rows, k, K, K)
        if second is not None:
            grad += _tile(second, row, rows, k, K, K)
        tl.store(dx + row[:, None] * K + k[None, :], grad, mask=(row < rows)[:, None] & (k < K)[None, :])
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
            v, _ = _normalised(x, row, rows, k, eps, K, S)
            v = tl.where((row < rows)[:, None], _affine(v, gamma, beta, k, K), 0.0)
        else:
            v = _tile(x, row, rows, k, K, S)
        g = _tile(dz, row, rows, n, N, N)
        total += dot(transposed(split(g, PRODUCTS)), split(v, PRODUCTS), PRODUCTS)
        total_bias += tl.sum(g, 0)
        if skip is not None:
            total_scale += tl.sum(g * _tile(skip, row, rows, n, N, N), 0)
            if tl.program_id(2) == 0:
                g *= tl.load(scale + n, mask=n < N, other=0.0)[None, :]
                tl.store(dskip + row[:, None] * N + n[None, :], g, mask=(row < rows)[:, None] & (n < N)[None, :])
    sums += tl.program_id(0).to(tl.int64) * (N * K + 2 * N)
    tl.store(sums + n[:, None] * K + k[None, :], total, mask=(n < N)[:, None] & (k < K)[None, :])
    if tl.program_id(2) == 0:
        tl.store(sums + N * K + n, total_bias, mask=n < N)
        tl.store(sums + N * K + N + n, total_scale, mask=n < N)


def _cut(blocks: Blocks | tuple[Blocks, Blocks, Blocks], features: int, out: int) -> dict:
    """Sizes of a program's tile: all features of a row, or 64 at a time, and as many of those that go out as fit."""
    whole = max(16, triton.next_power_of_2(features))
    if not isinstance(blocks, Blocks):
        blocks = blocks[0 if whole <= 64 else 1 if whole <= WHOLE else 2]
    wide = min(blocks.features, max(16, triton.next_power_of_2(out)))
    return {"BM": blocks.rows, "BN": wide, "BK": whole if whole <= WHOLE else 64, "num_warps": blocks.warps}


def forward(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    gelu: bool,
    residual: Tensor | None,
    skip: Tensor | None,
    scale: Tensor | None,
    products: str,
    dtype: torch.dtype,
    blocks: tuple[Blocks, Blocks] = FORWARD,
    wide: Steps | None = None,
) -> Tensor:
    """y [M, N] of `dtype`, for x [M, K] of any even rows, contiguous residual and skip [M, N]; weight [N, K].

    LayerNorm: for at most WHOLE features.
    """
    (rows, features), out = x.shape, weight.shape[0]
    y = torch.empty((rows, out), dtype=dtype, device=x.device)
    after, sizes = (bias, residual, skip, scale, y, rows), {"N": out, "K": features, "S": x.stride(0), "GELU": gelu}
    if features <= WHOLE:
        cut = _cut(blocks, features, out)
        _linear[(triton.cdiv(rows, cut["BM"]),)](
            *(x, gamma, beta, weight), *after, eps, PRODUCTS=products, **sizes, **cut
        )
        return y
    if wide is None:
        wide = WIDE[products]
        wide = wide._replace(features=wide.features // 2) if out <= FEW else wide
    cut = {"BN": min(wide.features, max(16, triton.next_power_of_2(out))), "BK": wide.step, "PRODUCTS": products}
    across, steps = triton.cdiv(out, cut["BN"]), triton.cdiv(features, wide.step)
    cut["KP"] = steps * wide.step
    factors = torch.empty(
        (1 + (products == "tf32x3"), across * cut["BN"], cut["KP"]),
        dtype=torch.bfloat16 if products == "bf16" else torch.float32,
        device=x.device,
    )
    _linear_factors[(across, steps)](weight, factors, N=out, K=features, **cut)
    _linear_wide[(triton.cdiv(rows, wide.rows) * across,)](
        *(x, factors), *after, **sizes, **cut, BM=wide.rows, num_warps=wide.warps, num_stages=wide.stages
    )
    return y


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

    GELU and LayerNorm: for at most WHOLE features.
    """
    (rows, features), out = x.shape, weight.shape[0]
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dz = torch.empty_like(dy) if gelu else dy
    cut = _cut(blocks, features, out)
    programs = triton.cdiv(rows, cut["BM"])
    if gamma is not None:
        programs = min(2 * PROGRAMS, programs)
    sums = None if gamma is None else torch.empty((programs, 2, features), device=x.device)
    _linear_inputs[(programs, triton.cdiv(features, cut["BK"]))](
        *(dy, x, gamma, beta, weight, bias, *two(others), dz, dx, sums, rows, eps),
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
    (rows, features), cut = x.shape, _cut(blocks, x.shape[1], out)
    grid = triton.cdiv(out, cut["BN"]), triton.cdiv(features, cut["BK"])
    programs = max(1, min(2 * PROGRAMS // (grid[0] * grid[1]), triton.cdiv(rows, cut["BM"])))
    sums = torch.empty((programs, out * (features + 2)), device=x.device)
    dskip = None if skip is None else torch.empty_like(skip)
    _linear_weights[(programs, *grid)](
        *(dz, x, gamma, beta, skip, scale, dskip, sums, rows, eps),
        **{"N": out, "K": features, "S": x.stride(0), "PRODUCTS": products, **cut},
    )
    return sum_rows(sums, around), dskip
