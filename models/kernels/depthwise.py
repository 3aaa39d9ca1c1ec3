"""Depthwise convolutions of tokens with what follows them, channels last: c = conv(x) + bias, and then

    gate      y = GELU(gate) c      GatedFFN
    sigmoid   y = x sigmoid(c)      conditional positional encoding
    gelu      y = x + GELU(c)       ConvFFN
    silu      y = SiLU(c)           MambaIR

Accumulated in float32. A program takes a tile of pixels and a block of channels, row by row: what it reads of a row
serves all the rows above and below that the kernel reaches. The gradient of weights is summed by tiles and then over
tiles, in a fixed order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels import evenly
from models.kernels.activations import gelu_slope, normal
from models.kernels.sums import sum_rows


class Tile(NamedTuple):
    """Rows of a program's tile, elements (pixels times channels) of a row, and warps."""

    rows: int
    elements: int
    warps: int


# As measured on an H100.
SMALL, LARGE = Tile(8, 256, 4), Tile(4, 256, 4)  # forward and transposed: 3x3, and more
BACKWARD = Tile(2, 512, 2)


@triton.jit
def _corner(tile, height, width, TH: tl.constexpr, TW: tl.constexpr):
    """First pixel (of the whole batch, int64) of a tile, and its row and column."""
    across, down = tl.cdiv(width, TW), tl.cdiv(height, TH)
    row, column = (tile // across) % down * TH, tile % across * TW
    image = tile // (across * down)
    return (image.to(tl.int64) * height + row) * width + column, row, column


@triton.jit
def _columns(x, column, c, width, S: tl.constexpr, C: tl.constexpr, K: tl.constexpr, TW: tl.constexpr):
    """What a tap's column reads in the tile's first row of pixels, [TW, BC], and which of it is there: two tuples."""
    pointers = ()
    there = ()
    for kx in tl.static_range(K):
        i = tl.arange(0, TW) + (kx - K // 2)
        pointers = pointers + (x + (i * S)[:, None] + c[None, :],)
        there = there + (((column + i >= 0) & (column + i < width))[:, None] & (c < C)[None, :],)
    return pointers, there


@triton.jit
def _inside(rows, dy, height):
    """[TW, 1]: whether the row that is dy below `rows` [TW] is in the image."""
    return ((rows + dy >= 0) & (rows + dy < height))[:, None]


@triton.jit
def _convolve(
    pointers,
    there,
    weight,
    rows,
    c,
    height,
    step,
    C: tl.constexpr,
    K: tl.constexpr,
    FLIP: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
):
    """Sums over taps of weight [K K, C] times neighbours, a tuple of rows; FLIP for the transposed convolution.

    What is read once is of use to as many rows as there are taps above each other. step: between rows of x.
    """
    taps = ()
    for tap in tl.static_range(K * K):
        at = (K * K - 1 - tap) if FLIP else tap
        taps = taps + (tl.load(weight + at * C + c, mask=c < C, other=0.0)[None, :],)
    zeros = tl.zeros([TW, c.shape[0]], tl.float32)
    sums = ()
    for _ in tl.static_range(TH):
        sums = sums + (zeros,)
    for y in tl.static_range(TH + K - 1):
        inside = _inside(rows, y - K // 2, height)
        for kx in tl.static_range(K):
            v = tl.load(pointers[kx] + (y - K // 2) * step, mask=there[kx] & inside, other=0.0).to(tl.float32)
            new = ()
            for dy in tl.static_range(TH):
                if y - dy >= 0 and y - dy < K:  # both sides of an expression would be compiled
                    new = new + (sums[dy] + v * taps[(y - dy) * K + kx],)
                else:
                    new = new + (sums[dy],)
            sums = new
    return sums


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
    first, row, column = _corner(tl.program_id(0) // blocks, height, width, TH, TW)
    c = tl.program_id(0) % blocks * BC + tl.arange(0, BC)
    i = tl.arange(0, TW)
    rows = row + 0 * i
    pointers, there = _columns(x + first * S, column, c, width, S, C, K, TW)
    offset = tl.load(bias + c, mask=c < C, other=0.0)[None, :]
    sums = _convolve(pointers, there, weight, rows, c, height, width * S, C, K, False, TH, TW)
    for dy in tl.static_range(TH):
        conv = sums[dy] + offset
        mask = there[K // 2] & _inside(rows, dy, height)
        at = dy * width + i
        if KIND == "gate":
            g = tl.load(gate + first * GS + (at * GS)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
            out = conv * g * normal(g)
        elif KIND == "silu":
            out = conv * tl.sigmoid(conv)
        else:
            middle = tl.load(pointers[K // 2] + dy * width * S, mask=mask, other=0.0).to(tl.float32)
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
    tile = tl.program_id(0) // blocks
    first, row, column = _corner(tile, height, width, TH, TW)
    c = tl.program_id(0) % blocks * BC + tl.arange(0, BC)
    i = tl.arange(0, TW)
    rows = row + 0 * i
    pointers, there = _columns(x + first * S, column, c, width, S, C, K, TW)
    offset = tl.load(bias + c, mask=c < C, other=0.0)[None, :]
    sums = _convolve(pointers, there, weight, rows, c, height, width * S, C, K, False, TH, TW)
    grads = ()
    total = tl.zeros([TW, BC], tl.float32)
    for line in tl.static_range(TH):
        conv = sums[line] + offset
        mask = there[K // 2] & _inside(rows, line, height)
        at = line * width + i
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
                middle = tl.load(pointers[K // 2] + line * width * S, mask=mask, other=0.0).to(tl.float32)
                grad *= middle * s * (1 - s)
            else:
                grad *= s * (1 + conv * (1 - s))
        tl.store(dconv + here, grad, mask=mask)
        grads = grads + (grad,)
        total += grad
    part = tile.to(tl.int64) * C + c
    tl.store(dbias + part, tl.sum(total, 0), mask=c < C)
    for ky in range(K):  # not unrolled: all taps at once would not fit into registers
        for kx in tl.static_range(K):
            total = tl.zeros([TW, BC], tl.float32)
            for line in tl.static_range(TH):
                away = line + ky - K // 2
                mask = there[kx] & _inside(rows, away, height)
                v = tl.load(pointers[kx] + away * width * S, mask=mask, other=0.0)
                total += grads[line] * v.to(tl.float32)
            tl.store(dweight + part * K * K + ky * K + kx, tl.sum(total, 0), mask=c < C)


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
    first, row, column = _corner(tl.program_id(0) // blocks, height, width, TH, TW)
    c = tl.program_id(0) % blocks * BC + tl.arange(0, BC)
    i = tl.arange(0, TW)
    rows = row + 0 * i
    pointers, there = _columns(dconv + first * C, column, c, width, C, C, K, TW)
    sums = _convolve(pointers, there, weight, rows, c, height, width * C, C, K, True, TH, TW)
    for dy in tl.static_range(TH):
        out = sums[dy]
        mask = there[K // 2] & _inside(rows, dy, height)
        here = first * C + ((dy * width + i) * C)[:, None] + c[None, :]
        if DIRECT:
            out += tl.load(direct + here, mask=mask, other=0.0)
        tl.store(dx + here, out, mask=mask)


def _block(channels: int) -> int:
    """Channels of a program: as many as fit without idle lanes, in whole 32-byte sectors."""
    for size in (32, 16, 8):
        if channels % size == 0:
            return size
    return min(16, triton.next_power_of_2(channels))


def _sizes(x: Tensor, kernel: int, tile: Tile) -> tuple[int, int, dict]:
    """Tiles, programs, and constants of a kernel."""
    batch, height, width, channels = x.shape
    block = _block(channels)
    across = max(1, tile.elements // block)
    tiles = batch * triton.cdiv(height, tile.rows) * triton.cdiv(width, across)
    constants = {"C": channels, "K": kernel, "TH": tile.rows, "TW": across, "BC": block, "num_warps": tile.warps}
    return tiles, tiles * triton.cdiv(channels, block), constants


def _forward_tile(weight: Tensor) -> Tile:
    return SMALL if weight.shape[-1] <= 3 else LARGE


def _taps(weight: Tensor) -> Tensor:
    """[C, 1, K, K] -> [K K, C]: what a tap multiplies, channel by channel."""
    return weight.flatten(1).t().float().contiguous()


def forward(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, kind: str) -> Tensor:
    """y [B, H, W, C] of x and gate [B, H, W, C], weight [C, 1, K, K] and bias [C]; K odd."""
    x, apart = evenly(x)
    gate, gate_apart = (x, apart) if gate is None else evenly(gate)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _, programs, constants = _sizes(x, weight.shape[-1], _forward_tile(weight))
    _depthwise[(programs,)](
        x, gate, _taps(weight), bias, y, *x.shape[1:3], S=apart, GS=gate_apart, KIND=kind, **constants
    )
    return y


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    gate: Tensor | None,
    kind: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of weight and bias one after the other (float32), and of gate (empty without one)."""
    x, apart = evenly(x)
    side = gate
    gate, gate_apart = (x, apart) if gate is None else evenly(gate)
    kernel, taps, dy = weight.shape[-1], _taps(weight), dy.contiguous()
    tiles, programs, constants = _sizes(x, kernel, BACKWARD)
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
    _, programs, constants = _sizes(x, kernel, _forward_tile(weight))
    _depthwise_transposed[(programs,)](
        dconv, taps, direct, dx, *x.shape[1:3], DIRECT=kind in ("sigmoid", "gelu"), **constants
    )
    dgate = dx.new_empty(0) if side is None else direct
    return dx, sum_rows(dweight, dbias), dgate
