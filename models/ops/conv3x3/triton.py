"""3x3 convolutions of tokens, channels last, as matrix products: padding 1, all channels to all (groups = 1).

    y[p, n] = sum over taps t and channels k of x[p + t, k] w[t, k, n] + bias[n] + residual[p, n]
    dx      = the same of dy, with w turned round: w'[t, n, k] = w[-t, k, n]
    dw[t, k, n] = sum over pixels p of x[p + t, k] dy[p, n]        dbias[n] = sum over pixels p of dy[p, n]

`_convolution` takes a tile of pixels and walks through taps and blocks of channels, whose weights `_convolution_pack`
has laid out one step after the other, already split for `dot`. `_convolution_weights` takes a block [k, n] and the
three taps of a row, and walks through a fixed part of the pixels; the parts are summed afterwards. All sums run in an
order that shapes alone decide.

Products as in models/ops/common/products.py: "tf32x3", "tf32", "bf16" and "ieee", plain float32. Steps on tensor cores
are short, and are added up in float32 outside of them."""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops.common.kernels import uniform_rows
from models.ops.common.products import dot, split
from models.ops.common.sums import sum_rows

TAPS = tl.constexpr(9)
PROGRAMS = 264  # of `_convolution_weights`, about; fixed, so that the order of sums depends on shapes only


@triton.jit
def _tile(tile, height, width, TH: tl.constexpr, TW: tl.constexpr):
    """First pixel (of the whole batch, int64), rows, columns and offsets from the first, of a tile's pixels."""
    across, down = tl.cdiv(width, TW), tl.cdiv(height, TH)
    y, x = (tile // across) % down * TH, tile % across * TW
    image = tile // (across * down)
    first = (image.to(tl.int64) * height + y) * width + x
    i = tl.arange(0, TH * TW)
    return first, y + i // TW, x + i % TW, i // TW * width + i % TW


@triton.jit
def _convolution_pack(
    weight,
    packed,  # [1 or 2, steps, padded N, BK]
    K: tl.constexpr,
    N: tl.constexpr,
    KS: tl.constexpr,
    NS: tl.constexpr,
    FLIP: tl.constexpr,
    NP: tl.constexpr,
    BK: tl.constexpr,
    B: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """Weights of one step for B outputs, zero where there is no channel; KS and NS: strides of inputs and outputs."""
    blocks: tl.constexpr = (K + BK - 1) // BK
    step = tl.program_id(0) // (NP // B)
    tap = step // blocks
    n = tl.program_id(0) % (NP // B) * B + tl.arange(0, B)[:, None]
    i = tl.arange(0, BK)[None, :]
    k = step % blocks * BK + i
    source = weight + k * KS + n * NS + ((TAPS - 1 - tap) if FLIP else tap)
    w = tl.load(source, mask=(k < K) & (n < N), other=0.0).to(tl.float32)
    to = packed + (step * NP + n) * BK + i
    w = split(w, PRODUCTS)
    tl.store(to, w[0])
    if PRODUCTS == "tf32x3":
        tl.store(to + TAPS * blocks * NP * BK, w[1])


@triton.jit
def _neighbours(x, offsets, inside, c, S: tl.constexpr, C: tl.constexpr, BC: tl.constexpr):
    """x [pixels, BC] at `offsets` (in pixels), zero where not `inside` or past the last channel."""
    mask = inside[:, None]
    if C % BC != 0:
        mask &= (c < C)[None, :]
    return tl.load(x + (offsets * S)[:, None] + c[None, :], mask=mask, other=0.0)


@triton.jit
def _packed_step(packed, step, n, NP: tl.constexpr, BK: tl.constexpr, SIZE: tl.constexpr, PRODUCTS: tl.constexpr):
    """Weights [BK, len(n)] of a step: a pair as of `split`."""
    at = packed + (step * NP + n)[:, None] * BK + tl.arange(0, BK)[None, :]
    w = tl.trans(tl.load(at))
    if PRODUCTS == "tf32x3":
        return w, tl.trans(tl.load(at + SIZE))
    elif PRODUCTS == "bf16":
        return split(w, PRODUCTS)
    else:
        return w, w


@triton.jit
def _store(acc, n, bias, residual, y, first, at, inside, N: tl.constexpr, RS: tl.constexpr):
    mask = inside[:, None] & (n < N)[None, :]
    if bias is not None:
        acc += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    if residual is not None:
        acc += tl.load(residual + first * RS + (at * RS)[:, None] + n[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(y + first * N + (at * N)[:, None] + n[None, :], acc.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["height", "width"])
def _convolution(
    x,
    packed,
    bias,
    residual,
    y,
    height,
    width,
    S: tl.constexpr,  # values from pixel to pixel of x, and of the residual
    RS: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    NP: tl.constexpr,
    PRODUCTS: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
    BN2: tl.constexpr,  # further outputs, or 0: 48 = 32 + 16
    TOGETHER: tl.constexpr,  # steps loaded at once, which divides the blocks of channels
    STAGES: tl.constexpr,
):
    blocks: tl.constexpr = (K + BK - 1) // BK
    program = tl.program_id(0)
    columns: tl.constexpr = NP // (BN + BN2)
    first, row, column, at = _tile(program // columns, height, width, TH, TW)
    n = program % columns * (BN + BN2) + tl.arange(0, BN)
    n2 = program % columns * (BN + BN2) + BN + tl.arange(0, BN2 if BN2 > 0 else 1)
    x += first * S
    acc = tl.zeros([TH * TW, BN], tl.float32)
    acc2 = tl.zeros([TH * TW, BN2 if BN2 > 0 else 1], tl.float32)
    for turn in tl.range(0, TAPS * blocks // TOGETHER, num_stages=STAGES):
        tap = turn // (blocks // TOGETHER)
        dy = tap // 3 - 1
        dx = tap % 3 - 1
        inside = (row + dy >= 0) & (row + dy < height) & (column + dx >= 0) & (column + dx < width)
        for i in tl.static_range(TOGETHER):
            step = turn * TOGETHER + i
            k = step % blocks * BK + tl.arange(0, BK)
            a = split(_neighbours(x, at + (dy * width + dx), inside, k, S, K, BK), PRODUCTS)
            acc += dot(a, _packed_step(packed, step, n, NP, BK, TAPS * blocks * NP * BK, PRODUCTS), PRODUCTS)
            if BN2 > 0:
                acc2 += dot(a, _packed_step(packed, step, n2, NP, BK, TAPS * blocks * NP * BK, PRODUCTS), PRODUCTS)
    inside = (row < height) & (column < width)
    _store(acc, n, bias, residual, y, first, at, inside, N, RS)
    if BN2 > 0:
        _store(acc2, n2, bias, residual, y, first, at, inside, N, RS)


@triton.jit(do_not_specialize=["pixels", "height", "width", "turns"])
def _convolution_weights(
    dy,
    x,
    partial,  # [parts, 9, K, N]
    partial_bias,  # [parts, N]
    pixels,
    height,
    width,
    turns,  # steps of a part
    S: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    PRODUCTS: tl.constexpr,
    BP: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
):
    across: tl.constexpr = (N + BN - 1) // BN
    down: tl.constexpr = (K + BK - 1) // BK
    program = tl.program_id(0)
    n = program % across * BN + tl.arange(0, BN)
    k = program // across % down * BK + tl.arange(0, BK)
    ky = program // (across * down) % 3
    part = program // (across * down * 3)
    left = tl.zeros([BK, BN], tl.float32)
    middle = tl.zeros([BK, BN], tl.float32)
    right = tl.zeros([BK, BN], tl.float32)
    sums = tl.zeros([BP, BN], tl.float32)
    i = tl.arange(0, BP)
    for turn in tl.range(0, turns, num_stages=STAGES):
        start = (part * turns + turn) * BP
        p = start + i
        column = p % width
        row = p // width % height + (ky - 1)
        here = p < pixels
        grad = _neighbours(dy + start.to(tl.int64) * N, i, here, n, N, N, BN)
        sums += grad.to(tl.float32)
        grad = split(grad, PRODUCTS)
        inside = here & (row >= 0) & (row < height)
        x_row = x + (start.to(tl.int64) + (ky - 1) * width) * S
        a = _neighbours(x_row, i - 1, inside & (column > 0), k, S, K, BK)
        left += dot(split(tl.trans(a), PRODUCTS), grad, PRODUCTS)
        a = _neighbours(x_row, i, inside, k, S, K, BK)
        middle += dot(split(tl.trans(a), PRODUCTS), grad, PRODUCTS)
        a = _neighbours(x_row, i + 1, inside & (column < width - 1), k, S, K, BK)
        right += dot(split(tl.trans(a), PRODUCTS), grad, PRODUCTS)
    mask = (k < K)[:, None] & (n < N)[None, :]
    cells = partial + ((part * 3 + ky).to(tl.int64) * 3 * K + k)[:, None] * N + n[None, :]
    tl.store(cells, left, mask=mask)
    tl.store(cells + K * N, middle, mask=mask)
    tl.store(cells + 2 * K * N, right, mask=mask)
    if program // across % (down * 3) == 0:
        tl.store(partial_bias + part * N + n, tl.sum(sums, 0), mask=n < N)


class Blocks(NamedTuple):
    """How `_convolution` cuts its work: a tile of pixels, channels of a step, steps loaded at once (or what divides
    their number for a tap), outputs (in one or two parts), warps, and how many such loads are under way (1: none)."""

    down: int
    across: int
    channels: int
    together: int
    outputs: int
    more: int
    warps: int
    stages: int


class Parts(NamedTuple):
    """How `_convolution_weights` cuts its work: pixels of a step, channels and outputs of a program, warps, steps
    loaded ahead."""

    pixels: int
    channels: int
    outputs: int
    warps: int
    stages: int


def forward_blocks(channels: int, outputs: int, products: str) -> Blocks:
    """The cut of a convolution from `channels` to `outputs`."""
    if outputs <= 16:
        part, more = 16, 0
    elif outputs <= 32:
        part, more = 32, 0
    elif outputs <= 48:
        part, more = 32, 16
    else:
        part, more = 64, 0
    step = 16 if channels % 32 and channels <= 64 else 32
    if products == "ieee":  # on general units: small tiles, or they do not fit into registers
        return Blocks(8, 8, 16, 1, part, more, 4, 1)
    return Blocks(8, 16, step, 1, part, more, 4, 3)


def weight_parts(channels: int, outputs: int, products: str) -> Parts:
    """The cut of the gradient of weights [outputs, channels, 3, 3]."""
    sides = (max(16, min(64, triton.next_power_of_2(side))) for side in (channels, outputs))
    if products == "bf16":  # nothing loaded ahead: Triton 3.6 would load dy anew while products still read it
        return Parts(64, *sides, 4, 1)
    return Parts(32, *sides, 4 if products == "ieee" else 8, 2)


def _multiply(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    products: str,
    dtype: torch.dtype,
    flip: bool,
    blocks: Blocks | None,
) -> Tensor:
    """y in `dtype`; `flip`: the transposed convolution, from the outputs of `weight` to its inputs."""
    x, apart = uniform_rows(x)
    weight = weight.contiguous()
    batch, height, width, channels = x.shape
    strides = weight.stride()[:2]
    outputs, (n_stride, k_stride) = (weight.shape[1], strides[::-1]) if flip else (weight.shape[0], strides)
    cut = blocks or forward_blocks(channels, outputs, products)
    columns = triton.cdiv(outputs, cut.outputs + cut.more)
    padded, steps = columns * (cut.outputs + cut.more), 9 * triton.cdiv(channels, cut.channels)
    packed = torch.empty(
        (2 if products == "tf32x3" else 1, steps, padded, cut.channels),
        dtype=torch.bfloat16 if products == "bf16" else torch.float32,
        device=x.device,
    )
    y = torch.empty((*x.shape[:3], outputs), dtype=dtype, device=x.device)
    residual, residual_apart = (None, 0) if residual is None else uniform_rows(residual)
    sizes = {"K": channels, "N": outputs, "NP": padded, "BK": cut.channels, "PRODUCTS": products}
    tiles = batch * triton.cdiv(height, cut.down) * triton.cdiv(width, cut.across)
    _convolution_pack[(steps * padded // 16,)](weight, packed, KS=k_stride, NS=n_stride, FLIP=flip, B=16, **sizes)
    _convolution[(tiles * columns,)](
        *(x, packed, bias, residual, y, height, width),
        S=apart,
        RS=residual_apart,
        TH=cut.down,
        TW=cut.across,
        BN=cut.outputs,
        BN2=cut.more,
        TOGETHER=math.gcd(cut.together, steps // 9),
        STAGES=cut.stages,
        num_warps=cut.warps,
        **sizes,
    )
    return y


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    products: str,
    blocks: Blocks | None = None,
) -> Tensor:
    """y [B, H, W, N] of x [B, H, W, K], weight [N, K, 3, 3], bias [N] and residual [B, H, W, N].

    y has the type of x, or what it and the residual's promote to.
    """
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    return _multiply(x, weight, bias, residual, products, dtype, False, blocks)


def backward_input(
    dy: Tensor, weight: Tensor, products: str, dtype: torch.dtype, blocks: Blocks | None = None
) -> Tensor:
    """The gradient of x [B, H, W, K], in `dtype`, of dy [B, H, W, N] and weight [N, K, 3, 3]."""
    return _multiply(dy, weight, None, None, products, dtype, True, blocks)


def backward_weight(dy: Tensor, x: Tensor, products: str, parts: Parts | None = None) -> tuple[Tensor, Tensor]:
    """Gradients of weight [N, K, 3, 3] and bias [N], float32, of dy [B, H, W, N] and x [B, H, W, K]."""
    x, apart = uniform_rows(x)
    dy = dy.contiguous()
    batch, height, width, channels = x.shape
    outputs, pixels = dy.shape[3], batch * height * width
    cut = parts or weight_parts(channels, outputs, products)
    programs = 3 * triton.cdiv(channels, cut.channels) * triton.cdiv(outputs, cut.outputs)  # of a split
    splits = max(1, min(PROGRAMS // programs, triton.cdiv(pixels, cut.pixels)))
    turns = triton.cdiv(pixels, splits * cut.pixels)
    splits = triton.cdiv(pixels, turns * cut.pixels)
    partial = torch.empty((splits, 3, 3, channels, outputs), device=x.device)
    partial_bias = torch.empty((splits, outputs), device=x.device)
    _convolution_weights[(splits * programs,)](
        *(dy, x, partial, partial_bias, pixels, height, width, turns),
        S=apart,
        K=channels,
        N=outputs,
        PRODUCTS=products,
        BP=cut.pixels,
        BK=cut.channels,
        BN=cut.outputs,
        STAGES=cut.stages,
        num_warps=cut.warps,
    )
    dweight, dbias = sum_rows(partial, partial_bias).split([partial[0].numel(), outputs])
    return dweight.view(partial.shape[1:]).permute(3, 2, 0, 1).contiguous(), dbias
