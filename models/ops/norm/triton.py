"""LayerNorm over the channels of tokens, after GELU if asked: many rows to a program, where PyTorch's own gives each
narrow row a block."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops.common.activations import gelu, gelu_slope
from models.ops.common.kernels import empty_rows, pair, uniform_rows
from models.ops.common.sums import sum_rows

ELEMENTS = 4096  # of a program's tile
PROGRAMS = 528  # of the backward pass at most, each going over many tiles: four to every processor of an H100


@triton.jit
def _normalise(x, row, c, there, C: tl.constexpr, S: tl.constexpr, GELU: tl.constexpr, eps):
    """Rows as they are [R, BC], centred over their deviation [R, BC], and one over the deviation [R]."""
    mask = there[:, None] & (c < C)[None, :]
    raw = tl.load(x + row[:, None] * S + c[None, :], mask=mask, other=0.0).to(tl.float32)
    v = gelu(raw) if GELU else raw
    v = tl.where((c < C)[None, :], v - tl.sum(v, 1)[:, None] / C, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(v * v, 1) / C + eps)
    return raw, v * inverse[:, None], inverse


@triton.jit
def _norm(
    x,
    weight,
    bias,
    y,
    rows,
    eps,
    C: tl.constexpr,
    S: tl.constexpr,
    Y: tl.constexpr,  # between rows of y
    GELU: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.arange(0, BC)
    _, v, _ = _normalise(x, row, c, row < rows, C, S, GELU, eps)
    w, b = tl.load(weight + c, mask=c < C, other=0.0), tl.load(bias + c, mask=c < C, other=0.0)
    out = v * w[None, :] + b[None, :]  # 0 past the channels
    tl.store(y + row[:, None] * Y + c[None, :], out, mask=(row < rows)[:, None] & (c < Y)[None, :])


@triton.jit
def _norm_backward(
    dy,
    x,
    weight,
    first,  # gradients of x from elsewhere [rows, C], or None
    second,
    dx,
    sums,  # [programs, 2, C]: dweight, dbias
    rows,
    eps,
    C: tl.constexpr,
    S: tl.constexpr,
    GELU: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
):
    c = tl.arange(0, BC)
    w = tl.load(weight + c, mask=c < C, other=0.0)
    dw, db = tl.zeros([R, BC], tl.float32), tl.zeros([R, BC], tl.float32)
    for turn in range(tl.cdiv(tl.cdiv(rows, R), tl.num_programs(0))):
        row = (tl.program_id(0).to(tl.int64) + turn * tl.num_programs(0)) * R + tl.arange(0, R)
        mask = (row < rows)[:, None] & (c < C)[None, :]
        raw, v, inverse = _normalise(x, row, c, row < rows, C, S, GELU, eps)
        g = tl.load(dy + row[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
        dw += g * v
        db += g
        g *= w[None, :]
        out = (g - tl.sum(g, 1)[:, None] / C - v * (tl.sum(g * v, 1)[:, None] / C)) * inverse[:, None]
        if GELU:
            out *= gelu_slope(raw)
        if first is not None:
            out += tl.load(first + row[:, None] * C + c[None, :], mask=mask, other=0.0)
        if second is not None:
            out += tl.load(second + row[:, None] * C + c[None, :], mask=mask, other=0.0)
        tl.store(dx + row[:, None] * C + c[None, :], out, mask=mask)
    sums += tl.program_id(0) * 2 * C + c
    tl.store(sums, tl.sum(dw, 0), mask=c < C)
    tl.store(sums + C, tl.sum(db, 0), mask=c < C)


def _block(channels: int) -> tuple[int, int]:
    wide = triton.next_power_of_2(channels)
    return max(1, ELEMENTS // wide), wide


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool, dtype: torch.dtype, space: bool = False
) -> Tensor:
    """LayerNorm of x or GELU(x) [..., C], of `dtype`, contiguous or `empty_rows`."""
    channels, (x, apart) = x.shape[-1], uniform_rows(x)
    rows, (count, wide) = x.numel() // channels, _block(channels)
    y = empty_rows(x, dtype, space)
    _norm[(triton.cdiv(rows, count),)](
        x, weight, bias, y, rows, eps, *(channels, apart, y.stride(-2), gelu, count, wide), num_warps=8
    )
    return y


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    eps: float,
    gelu: bool,
    others: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """Gradients of x, to which up to two `others` are added, and of weight and bias one after the other, float32."""
    channels, (x, apart) = x.shape[-1], uniform_rows(x)
    rows, (count, wide) = x.numel() // channels, _block(channels)
    tiles = triton.cdiv(rows, count)
    programs = triton.cdiv(tiles, triton.cdiv(tiles, PROGRAMS))  # with as many tiles each
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    sums = torch.empty((programs, 2, channels), device=x.device)
    _norm_backward[(programs,)](
        *(dy.contiguous(), x, weight, *pair(others), dx, sums, rows, eps, channels, apart, gelu, count, wide),
        num_warps=8,
    )
    return dx, sum_rows(sums)
