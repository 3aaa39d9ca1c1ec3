"""Depthwise convolutions of tokens with what follows them, channels last: c = conv(x) + bias, and then

    gate      y = GELU(gate) c      GatedFFN
    sigmoid   y = x sigmoid(c)      conditional positional encoding
    gelu      y = x + GELU(c)       ConvFFN
    silu      y = SiLU(c)           MambaIR

Accumulated in float32. A program takes a tile of pixels and a block of channels, and reads its neighbours through the
cache. The gradient of weights is summed by tiles and then over tiles, in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels import evenly
from models.kernels.activations import gelu_slope, normal
from models.kernels.sums import sum_rows

ELEMENTS = {4: 2048, 1: 1024}  # of a program's tile, by its warps


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
def _tap(x, row, column, at, c, dy, dx, height, width, S: tl.constexpr, C: tl.constexpr):
    """x of the pixels that lie (dy, dx) away, [P, BC]; zero outside of the image. `at`: offsets of the pixels."""
    inside = (row + dy >= 0) & (row + dy < height) & (column + dx >= 0) & (column + dx < width)
    offset = (at + dy * width + dx) * S
    return tl.load(x + offset[:, None] + c[None, :], mask=inside[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _convolve(
    x, weight, row, column, at, c, height, width, S: tl.constexpr, C: tl.constexpr, K: tl.constexpr, FLIP: tl.constexpr
):
    """Sum over taps of weight [K K, C] times neighbours; FLIP for the transposed convolution."""
    acc = tl.zeros([row.shape[0], c.shape[0]], tl.float32)
    for ky in range(K):  # not unrolled: all taps at once would not fit into registers
        for kx in tl.static_range(K):
            tap = ky * K + kx
            w = tl.load(weight + ((K * K - 1 - tap) if FLIP else tap) * C + c, mask=c < C, other=0.0)
            acc += _tap(x, row, column, at, c, ky - K // 2, kx - K // 2, height, width, S, C) * w[None, :]
    return acc


@triton.jit
def _depthwise(
    x,
    gate,
    weight,
    bias,
    y,
    height,
    width,
    S: tl.constexpr,
    GS: tl.constexpr,
    C: tl.constexpr,
    KIND: tl.constexpr,
    K: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BC: tl.constexpr,
):
    blocks: tl.constexpr = (C + BC - 1) // BC
    program = tl.program_id(0)
    first, row, column, at = _tile(program // blocks, height, width, TH, TW)
    c = program % blocks * BC + tl.arange(0, BC)
    x += first * S
    conv = _convolve(x, weight, row, column, at, c, height, width, S, C, K, False)
    conv += tl.load(bias + c, mask=c < C, other=0.0)[None, :]
    mask = ((row < height) & (column < width))[:, None] & (c < C)[None, :]
    if KIND == "gate":
        g = tl.load(gate + first * GS + (at * GS)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
        out = conv * g * normal(g)
    elif KIND == "silu":
        out = conv * tl.sigmoid(conv)
    else:
        middle = tl.load(x + (at * S)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
        out = middle * tl.sigmoid(conv) if KIND == "sigmoid" else middle + conv * normal(conv)
    tl.store(y + first * C + (at * C)[:, None] + c[None, :], out, mask=mask)


@triton.jit
def _depthwise_backward(
    dy,
    x,
    gate,
    weight,
    bias,
    dconv,
    direct,
    dweight,
    dbias,
    height,
    width,
    S: tl.constexpr,
    GS: tl.constexpr,
    C: tl.constexpr,
    KIND: tl.constexpr,
    K: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradient of c; of the gate, or of x past the convolution (`direct`); this tile's part of weight and bias."""
    blocks: tl.constexpr = (C + BC - 1) // BC
    program = tl.program_id(0)
    tile = program // blocks
    first, row, column, at = _tile(tile, height, width, TH, TW)
    c = program % blocks * BC + tl.arange(0, BC)
    x += first * S
    conv = _convolve(x, weight, row, column, at, c, height, width, S, C, K, False)
    conv += tl.load(bias + c, mask=c < C, other=0.0)[None, :]
    mask = ((row < height) & (column < width))[:, None] & (c < C)[None, :]
    here = first * C + (at * C)[:, None] + c[None, :]
    grad = tl.load(dy + here, mask=mask, other=0.0).to(tl.float32)
    if KIND == "gate":
        g = tl.load(gate + first * GS + (at * GS)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(direct + here, grad * conv * gelu_slope(g), mask=mask)
        grad *= g * normal(g)
    elif KIND == "gelu":
        grad *= gelu_slope(conv)
    else:
        s = tl.sigmoid(conv)
        if KIND == "sigmoid":
            tl.store(direct + here, grad * s, mask=mask)
            grad *= tl.load(x + (at * S)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32) * s * (1 - s)
        else:
            grad *= s * (1 + conv * (1 - s))
    tl.store(dconv + here, grad, mask=mask)
    part = tile.to(tl.int64) * C + c
    for ky in range(K):
        for kx in tl.static_range(K):
            v = _tap(x, row, column, at, c, ky - K // 2, kx - K // 2, height, width, S, C)
            tl.store(dweight + part * K * K + ky * K + kx, tl.sum(grad * v, 0), mask=c < C)
    tl.store(dbias + part, tl.sum(grad, 0), mask=c < C)


@triton.jit
def _depthwise_transposed(
    dconv,
    weight,
    direct,
    dx,
    height,
    width,
    C: tl.constexpr,
    DIRECT: tl.constexpr,
    K: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradient of x: the transposed convolution, plus what went past it."""
    blocks: tl.constexpr = (C + BC - 1) // BC
    program = tl.program_id(0)
    first, row, column, at = _tile(program // blocks, height, width, TH, TW)
    c = program % blocks * BC + tl.arange(0, BC)
    out = _convolve(dconv + first * C, weight, row, column, at, c, height, width, C, C, K, True)
    mask = ((row < height) & (column < width))[:, None] & (c < C)[None, :]
    here = first * C + (at * C)[:, None] + c[None, :]
    if DIRECT:
        out += tl.load(direct + here, mask=mask, other=0.0)
    tl.store(dx + here, out, mask=mask)


def _block(channels: int) -> int:
    """Channels of a program: as many as fit without idle lanes, in whole 32-byte sectors."""
    for size in (32, 16, 8):
        if channels % size == 0:
            return size
    return min(16, triton.next_power_of_2(channels))


def _sizes(x: Tensor, kernel: int, warps: int) -> tuple[int, int, dict]:
    """Tiles, programs, and constants of a kernel."""
    batch, height, width, channels = x.shape
    block = _block(channels)
    pixels = ELEMENTS[warps] // block
    down = 8 if pixels < 256 else 16
    tiles = batch * triton.cdiv(height, down) * triton.cdiv(width, pixels // down)
    constants = {"C": channels, "K": kernel, "TH": down, "TW": pixels // down, "BC": block, "num_warps": warps}
    return tiles, tiles * triton.cdiv(channels, block), constants


def _taps(weight: Tensor) -> Tensor:
    """[C, 1, K, K] -> [K K, C]: what a tap multiplies, channel by channel."""
    return weight.flatten(1).t().float().contiguous()


def forward(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, kind: str) -> Tensor:
    """y [B, H, W, C] of x and gate [B, H, W, C], weight [C, 1, K, K] and bias [C]; K odd."""
    x, apart = evenly(x)
    gate, gate_apart = (x, apart) if gate is None else evenly(gate)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _, programs, constants = _sizes(x, weight.shape[-1], 4)
    _depthwise[(programs,)](
        x, gate, _taps(weight), bias, y, *x.shape[1:3], S=apart, GS=gate_apart, KIND=kind, **constants
    )
    return y


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of weight and bias one after the other (float32), and of gate (empty without one)."""
    x, apart = evenly(x)
    side = gate
    gate, gate_apart = (x, apart) if gate is None else evenly(gate)
    kernel, taps, dy = weight.shape[-1], _taps(weight), dy.contiguous()
    tiles, programs, constants = _sizes(x, kernel, 1)  # one warp: sums over its pixels need no barrier
    dconv = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    direct = torch.empty(x.shape, dtype=gate.dtype, device=x.device) if kind in ("gate", "sigmoid") else dy
    dweight = torch.empty((tiles, *weight.shape), device=x.device)  # of every tile
    dbias = torch.empty((tiles, *bias.shape), device=x.device)
    _depthwise_backward[(programs,)](
        dy,
        x,
        gate,
        taps,
        bias,
        dconv,
        direct,
        dweight,
        dbias,
        *x.shape[1:3],
        S=apart,
        GS=gate_apart,
        KIND=kind,
        **constants,
    )
    dx = direct if kind == "sigmoid" else torch.empty_like(dconv)
    _, programs, constants = _sizes(x, kernel, 4)
    _depthwise_transposed[(programs,)](
        dconv, taps, direct, dx, *x.shape[1:3], DIRECT=kind in ("sigmoid", "gelu"), **constants
    )
    dgate = dx.new_empty(0) if side is None else direct
    return dx, sum_rows(dweight, dbias), dgate
