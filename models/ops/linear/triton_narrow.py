"""Gradients of narrow linear layers (triton.py) in one pass over rows, each read once: of x, W, b, scale, skip, gamma,
beta. A program goes over many tiles of rows and keeps in registers what it sums over them, G = dz^T v, where v is x or
its normalised rows. At the end it makes of that

    dW = G gamma + db beta^T        dgamma_k = sum_n W_nk G_nk        dbeta = W^T db

Sums over programs, whose number depends on shapes only, follow in one launch: no atomics.
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
from models.ops.linear.triton_tiles import affine, normalised, read_matrix, read_rows, store_gradient, through_norm

# As measured on an H200, 64 features out at a time with 4 warps.
FEATURES, HELD = 64, 12288  # of rows at most, and numbers of G that a program keeps at most
PROGRAMS = 264  # that go over the rows at most: two to every processor


@triton.jit
def _linear_gradients(
    dy,
    x,
    gamma,  # None: no LayerNorm
    beta,
    weight,
    bias,
    first,  # gradients of x from elsewhere [rows, K], or None
    second,
    skip,
    scale,
    dx,
    dskip,  # written if there is a skip
    sums,  # [programs, N K + N + N + 2 K]: dweight, dbias, dscale, dgamma, dbeta (these two with LayerNorm)
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
    BLOCKS: tl.constexpr,  # of features out
):
    k = tl.arange(0, BK)
    parts, bias_parts, scale_parts = (), (), ()
    for _ in tl.static_range(BLOCKS):
        parts = parts + (tl.zeros([BN, BK], tl.float32),)  # noqa: RUF005 Triton unpacks nothing
        bias_parts = bias_parts + (tl.zeros([BN], tl.float32),)  # noqa: RUF005
        scale_parts = scale_parts + (tl.zeros([BN], tl.float32),)  # noqa: RUF005
    for turn in range(tl.cdiv(tl.cdiv(rows, BM), tl.num_programs(0))):
        row = (tl.program_id(0).to(tl.int64) + turn * tl.num_programs(0)) * BM + tl.arange(0, BM)
        if gamma is not None:
            v, inverse = normalised(x, row, rows, k, eps, K, S)
        else:
            v = read_rows(x, row, rows, k, K, S)
        # past the features a column of ones, where there is room: the product then gives the gradient of the bias too
        right = split(tl.where((k == K)[None, :], 1.0, v) if K < BK else v, PRODUCTS)
        if GELU:
            left = split(affine(v, gamma, beta, k, K), PRODUCTS) if gamma is not None else split(v, PRODUCTS)
        grad = tl.zeros([BM, BK], tl.float32)
        new_parts, new_bias_parts, new_scale_parts = (), (), ()
        for i in tl.static_range(BLOCKS):
            n = i * BN + tl.arange(0, BN)
            w = read_matrix(weight, n, k, N, K, PRODUCTS)
            g = read_rows(dy, row, rows, n, N, N)
            if skip is not None:
                mask = (row < rows)[:, None] & (n < N)[None, :]
                total_scale = tl.sum(g * read_rows(skip, row, rows, n, N, N), 0)
                new_scale_parts = new_scale_parts + (scale_parts[i] + total_scale,)  # noqa: RUF005
                past = g * tl.load(scale + n, mask=n < N, other=0.0)[None, :]
                tl.store(dskip + row[:, None] * N + n[None, :], past, mask=mask)
            else:
                new_scale_parts = new_scale_parts + (scale_parts[i],)  # noqa: RUF005
            if GELU:
                z = dot(left, transposed(w), PRODUCTS) + tl.load(bias + n, mask=n < N, other=0.0)[None, :]
                g *= gelu_slope(z)
            sides = split(g, PRODUCTS)
            grad += dot(sides, w, PRODUCTS)
            new_parts = new_parts + (parts[i] + dot(transposed(sides), right, PRODUCTS),)  # noqa: RUF005
            if K < BK:
                new_bias_parts = new_bias_parts + (bias_parts[i],)  # noqa: RUF005
            else:
                new_bias_parts = new_bias_parts + (bias_parts[i] + tl.sum(g, 0),)  # noqa: RUF005
        parts, bias_parts, scale_parts = new_parts, new_bias_parts, new_scale_parts
        if gamma is not None:
            grad = through_norm(grad, v, inverse, gamma, k, K)
        store_gradient(grad, first, second, dx, row, rows, k, K)
    sums += tl.program_id(0).to(tl.int64) * (N * (K + 2) + (0 if gamma is None else 2 * K))
    total_gamma, total_beta = tl.zeros([BK], tl.float32), tl.zeros([BK], tl.float32)
    for i in tl.static_range(BLOCKS):
        n = i * BN + tl.arange(0, BN)
        mask = (n < N)[:, None] & (k < K)[None, :]
        total = parts[i]
        db = tl.sum(tl.where((k == K)[None, :], total, 0.0), 1) if K < BK else bias_parts[i]
        if gamma is not None:
            w = tl.load(weight + n[:, None] * K + k[None, :], mask=mask, other=0.0)
            total_gamma += tl.sum(w * total, 0)
            total_beta += tl.sum(w * db[:, None], 0)
            total = total * tl.load(gamma + k, mask=k < K, other=0.0)[None, :]
            total += db[:, None] * tl.load(beta + k, mask=k < K, other=0.0)[None, :]
        tl.store(sums + n[:, None] * K + k[None, :], total, mask=mask)
        tl.store(sums + N * K + n, db, mask=n < N)
        tl.store(sums + N * K + N + n, scale_parts[i], mask=n < N)
    if gamma is not None:
        tl.store(sums + N * (K + 2) + k, total_gamma, mask=k < K)
        tl.store(sums + N * (K + 2) + K + k, total_beta, mask=k < K)


def tile(features: int, out: int, products: str) -> dict | None:
    """Sizes of a program's tile; None for layers that are too wide for one."""
    width, block = max(16, triton.next_power_of_2(features)), min(64, max(16, triton.next_power_of_2(out)))
    blocks = triton.cdiv(out, block)
    if width > FEATURES or blocks * block * width > HELD:
        return None
    rows = 64 if products == "bf16" or width <= 32 else 32
    return {"BM": rows, "BN": block, "BK": width, "BLOCKS": blocks, "num_warps": 4, "num_stages": 1}


def gradients(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    gelu: bool,
    skip: Tensor | None,
    scale: Tensor | None,
    products: str,
    others: Sequence[Tensor],
    cut: dict,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of x, to which up to two `others` are added; of weight [N, K], bias [N], scale [N] (0 without `skip`),
    gamma and beta [2, K] (if there are) one after the other, float32; and of skip. cut: of `tile`."""
    (rows, features), out = x.shape, weight.shape[0]
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dskip = None if skip is None else torch.empty_like(skip)
    tiles = triton.cdiv(rows, cut["BM"])
    programs = triton.cdiv(tiles, triton.cdiv(tiles, PROGRAMS))  # with as many tiles each
    sums = torch.empty((programs, out * (features + 2) + (0 if gamma is None else 2 * features)), device=x.device)
    _linear_gradients[(programs,)](
        *(dy, x, gamma, beta, weight, bias, *pair(others), skip, scale, dx, dskip, sums, rows, eps),
        **{"N": out, "K": features, "S": x.stride(0), "GELU": gelu, "PRODUCTS": products, **cut},
    )
    return dx, sum_rows(sums), dskip
