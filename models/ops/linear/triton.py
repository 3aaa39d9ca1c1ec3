"""Linear layers of tokens with what comes before and after them, in one pass over memory:

    z = n W^T + b           n = x, or LayerNorm(x) of rows that fit into one block
    y = z, or GELU(z), then + residual, then + skip scale

Rows M, K features in, N out. A program holds BM rows and takes blocks of BN features out; rows of more than
BLOCK_FEATURES are `_linear_wide`'s, BK features at a time, with W split for `dot` once, not by every program
(`_linear_factors`). Gradients: triton_narrow.py, triton_gradients.py.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops.common.activations import gelu
from models.ops.common.kernels import BLOCK_FEATURES, readable_width
from models.ops.common.products import dot, factor, split, transposed
from models.ops.linear.triton_tiles import Blocks, affine, normalised, read_matrix, read_rows, tile_of


class Steps(NamedTuple):
    """Rows and features out of a program's tile, features in of a step, warps, and steps that are loaded ahead."""

    rows: int
    features: int
    step: int
    warps: int
    stages: int


# As measured on an H200: FORWARD and FEW_OUT; others on an H100 (not tf32).
FORWARD = Blocks(64, 32, 4), Blocks(64, 64, 4)  # for rows of up to 64 features and of up to BLOCK_FEATURES
FEW_OUT = Blocks(64, 64, 4)  # for up to 64 features out: all at once
MANY = 256  # features out, of at most 64 in, from which `_linear` takes MORE of them at a time
MORE = Blocks(64, 128, 4)
FEW = 192  # features out up to which `_linear_wide` takes the first of two tiles
WIDE = {
    "tf32x3": (Steps(64, 64, 32, 4, 3), Steps(64, 128, 32, 4, 3)),
    "tf32": (Steps(64, 64, 64, 4, 3), Steps(64, 128, 64, 4, 3)),
    "bf16": (Steps(64, 64, 64, 4, 3), Steps(128, 128, 32, 4, 3)),
}


@triton.jit
def _stored(z, row, rows, n, bias, residual, skip, scale, y, N: tl.constexpr, GELU: tl.constexpr):
    """Everything that follows the product."""
    if bias is not None:
        z += tl.load(bias + n, mask=n < N, other=0.0)[None, :]
    if GELU:
        z = gelu(z)
    if residual is not None:
        z += read_rows(residual, row, rows, n, N, N)
    if skip is not None:
        z += read_rows(skip, row, rows, n, N, N) * tl.load(scale + n, mask=n < N, other=0.0)[None, :]
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
        v, _ = normalised(x, row, rows, k, eps, K, S)
        whole = split(affine(v, gamma, beta, k, K), PRODUCTS)
    else:
        whole = split(read_rows(x, row, rows, k, K, S), PRODUCTS)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        z = dot(whole, transposed(read_matrix(weight, n, k, N, K, PRODUCTS)), PRODUCTS)
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
    high, low = read_matrix(weight, n, k, N, K, PRODUCTS)
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
    KR: tl.constexpr,  # features that can be read of them, zeros past K
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
        mask = (row < rows)[:, None] & (k < KR)[None, :]
        v = tl.load(x + row[:, None] * S + k[None, :], mask=mask, other=0.0)
        part = split(v if PRODUCTS == "bf16" else v.to(tl.float32), PRODUCTS)
        at = n[:, None] * KP + k[None, :]
        high = factor(tl.load(factors + at))
        low = high
        if PRODUCTS == "tf32x3":
            low = tl.load(factors + across * BN * KP + at)
        z += dot(part, transposed((high, low)), PRODUCTS)
    _stored(z, row, rows, n, bias, residual, skip, scale, y, N, GELU)


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
    blocks: Blocks | tuple[Blocks, Blocks] | None = None,
    wide: Steps | None = None,
) -> Tensor:
    """y [M, N] of `dtype`, for x [M, K] of any even rows, contiguous residual and skip [M, N]; weight [N, K].

    LayerNorm: for at most BLOCK_FEATURES features.
    """
    (rows, features), out = x.shape, weight.shape[0]
    y = torch.empty((rows, out), dtype=dtype, device=x.device)
    after, sizes = (bias, residual, skip, scale, y, rows), {"N": out, "K": features, "S": x.stride(0), "GELU": gelu}
    if features <= BLOCK_FEATURES:
        blocks = blocks or (MORE if features <= 64 and out >= MANY else FEW_OUT if out <= FEW_OUT.features else FORWARD)
        cut = tile_of(blocks, features, out)
        _linear[(triton.cdiv(rows, cut["BM"]),)](
            *(x, gamma, beta, weight), *after, eps, PRODUCTS=products, **sizes, **cut
        )
        return y
    wide = wide or WIDE[products][out > FEW]
    cut = {"BN": min(wide.features, max(16, triton.next_power_of_2(out))), "BK": wide.step, "PRODUCTS": products}
    across, steps = triton.cdiv(out, cut["BN"]), triton.cdiv(features, wide.step)
    cut["KP"], sizes["KR"] = steps * wide.step, readable_width(x)
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
