"""Depthwise convolutions of tokens with what follows them, channels last: c = conv(x) + bias, and then

    gate      y = GELU(gate) c      GatedFFN
    sigmoid   y = x sigmoid(c)      conditional positional encoding
    gelu      y = x + GELU(c)       ConvFFN
    silu      y = SiLU(c)           MambaIR

Accumulated in float32. A program takes a tile of pixels and a block of channels, a lane a few rows and columns of the
tile: what it reads serves all its pixels that the kernel reaches from there. Backward, a first pass makes the gradient
dc of c, and a second one those of x and of the weights, which read the same neighbours in dc. The latter is summed by
tiles and then over tiles, in a fixed order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops.common.activations import gelu, gelu_slope, sigmoid
from models.ops.common.kernels import empty_rows, uniform_rows
from models.ops.common.sums import sum_rows


class Tile(NamedTuple):
    """Rows and neighbouring columns of pixels that a lane computes, elements (lanes' groups of columns times channels)
    of a program, warps, and the registers that a lane may have."""

    rows: int
    columns: int
    elements: int
    warps: int
    registers: int | None = None


# As measured on an H100; of two, for float32 and for less: 3x3; more, for blocks of WIDE channels and for less of them.
SMALL = Tile(4, 2, 256, 4)
LARGE = Tile(4, 4, 256, 4), Tile(4, 4, 256, 4, 168)
NARROW = Tile(4, 1, 256, 4)
WIDE = 32
# As measured on an H200 with 24 and 48 channels, of the second pass backward: 3x3; more, with as many columns at most.
SMALL_BACKWARD, LARGE_BACKWARD = Tile(4, 1, 256, 4), Tile(2, 4, 128, 2)


@triton.jit
def _corner(tile, height, width, TH: tl.constexpr, ACROSS: tl.constexpr):
    """First pixel (of the whole batch, int64) of a tile, and its row and column."""
    across, down = tl.cdiv(width, ACROSS), tl.cdiv(height, TH)
    row, column = (tile // across) % down * TH, tile % across * ACROSS
    image = tile // (across * down)
    return (image.to(tl.int64) * height + row) * width + column, row, column


@triton.jit
def _there(row, column, c, height, width, C: tl.constexpr):
    """[TW, BC]: which pixels of a row (in `column` [TW]) are in the image, of channels that exist."""
    rows = row + 0 * column
    inside = (rows >= 0) & (rows < height) & (column >= 0) & (column < width)
    return inside[:, None] & (c < C)[None, :]


@triton.jit
def _tap(weight, tap, c, C: tl.constexpr, K: tl.constexpr):
    """[1, BC]: what a tap multiplies, channel by channel."""
    return tl.load(weight + c * (K * K) + tap, mask=c < C, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _convolve(
    x,
    weight,
    row,
    column,
    c,
    height,
    width,
    S: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    TH: tl.constexpr,
    PX: tl.constexpr,
):
    """Sums over taps of weight [C, K K] times neighbours.

    x: pointers [TW, BC] to the first pixels of the lanes' groups, which are in `row` and `column` [TW]. A tuple of TH
    rows times PX pixels. What is read once is of use to all of them that it is a neighbour of.
    """
    taps = ()
    for tap in tl.static_range(K * K):
        taps = taps + (_tap(weight, tap, c, C, K),)
    sums = ()
    for _ in tl.static_range(TH * PX):
        sums = sums + (tl.zeros([column.shape[0], c.shape[0]], tl.float32),)
    for y in tl.static_range(TH + K - 1):
        for z in tl.static_range(PX + K - 1):
            mask = _there(row + (y - K // 2), column + (z - K // 2), c, height, width, C)
            v = tl.load(x + ((y - K // 2) * width * S + (z - K // 2) * S), mask=mask, other=0.0).to(tl.float32)
            new = ()
            for s in tl.static_range(TH * PX):
                if s // PX <= y and y < s // PX + K and s % PX <= z and z < s % PX + K:
                    new = new + (sums[s] + v * taps[(y - s // PX) * K + z - s % PX],)
                else:  # both sides of an expression would be compiled
                    new = new + (sums[s],)
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
    Y: tl.constexpr,  # between pixels of y
    C: tl.constexpr,
    KIND: tl.constexpr,
    K: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    PX: tl.constexpr,
    BC: tl.constexpr,
):
    blocks: tl.constexpr = (C + BC - 1) // BC
    first, row, column = _corner(tl.program_id(0) // blocks, height, width, TH, TW * PX)
    c = tl.program_id(0) % blocks * BC + tl.arange(0, BC)
    i = tl.arange(0, TW) * PX
    x += first * S + (i * S)[:, None] + c[None, :]
    offset = tl.load(bias + c, mask=c < C, other=0.0)[None, :]
    sums = _convolve(x, weight, row, column + i, c, height, width, S, C, K, TH, PX)
    for s in tl.static_range(TH * PX):
        conv = sums[s] + offset
        mask = _there(row + s // PX, column + i + s % PX, c, height, width, C)
        at = s // PX * width + i + s % PX
        if KIND == "gate":
            g = tl.load(gate + first * GS + (at * GS)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
            out = conv * gelu(g)
        elif KIND == "silu":
            out = conv * sigmoid(conv)
        else:
            middle = tl.load(x + (s // PX * width * S + s % PX * S), mask=mask, other=0.0).to(tl.float32)
            out = middle * sigmoid(conv) if KIND == "sigmoid" else middle + gelu(conv)
        mask = _there(row + s // PX, column + i + s % PX, c, height, width, Y)  # out is 0 past the channels
        tl.store(y + first * Y + (at * Y)[:, None] + c[None, :], out, mask=mask)


@triton.jit
def _depthwise_outputs(
    dy,
    x,
    gate,
    weight,
    bias,
    dconv,
    direct,
    height,
    width,
    S: tl.constexpr,
    GS: tl.constexpr,
    C: tl.constexpr,
    KIND: tl.constexpr,
    K: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    PX: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradient of c, and of the gate or of x past the convolution (`direct`)."""
    blocks: tl.constexpr = (C + BC - 1) // BC
    first, row, column = _corner(tl.program_id(0) // blocks, height, width, TH, TW * PX)
    c = tl.program_id(0) % blocks * BC + tl.arange(0, BC)
    i = tl.arange(0, TW) * PX
    x += first * S + (i * S)[:, None] + c[None, :]
    offset = tl.load(bias + c, mask=c < C, other=0.0)[None, :]
    sums = _convolve(x, weight, row, column + i, c, height, width, S, C, K, TH, PX)
    for s in tl.static_range(TH * PX):
        conv = sums[s] + offset
        mask = _there(row + s // PX, column + i + s % PX, c, height, width, C)
        at = s // PX * width + i + s % PX
        here = first * C + (at * C)[:, None] + c[None, :]
        grad = tl.load(dy + here, mask=mask, other=0.0).to(tl.float32)
        if KIND == "gate":
            g = tl.load(gate + first * GS + (at * GS)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
            tl.store(direct + here, grad * conv * gelu_slope(g), mask=mask)
            grad *= gelu(g)
        elif KIND == "gelu":
            grad *= gelu_slope(conv)
        else:
            sig = sigmoid(conv)
            if KIND == "sigmoid":
                tl.store(direct + here, grad * sig, mask=mask)
                middle = tl.load(x + (s // PX * width * S + s % PX * S), mask=mask, other=0.0).to(tl.float32)
                grad *= middle * sig * (1 - sig)
            else:
                grad *= sig * (1 + conv * (1 - sig))
        tl.store(dconv + here, grad, mask=mask)


@triton.jit
def _depthwise_inputs(
    dconv,
    x,
    weight,
    direct,
    dx,
    dweight,  # [tiles, C, K K]
    dbias,  # [tiles, C]
    height,
    width,
    S: tl.constexpr,
    C: tl.constexpr,
    DIRECT: tl.constexpr,
    K: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    PX: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradient of x, the transposed convolution plus what went past it; this tile's part of weight and bias."""
    blocks: tl.constexpr = (C + BC - 1) // BC
    tile = tl.program_id(0) // blocks
    first, row, column = _corner(tile, height, width, TH, TW * PX)
    c = tl.program_id(0) % blocks * BC + tl.arange(0, BC)
    i = tl.arange(0, TW) * PX
    x += first * S + (i * S)[:, None] + c[None, :]
    dconv += first * C + (i * C)[:, None] + c[None, :]
    values, sums = (), ()
    total = tl.zeros([TW, BC], tl.float32)
    for s in tl.static_range(TH * PX):
        mask = _there(row + s // PX, column + i + s % PX, c, height, width, C)
        values = values + (tl.load(x + (s // PX * width * S + s % PX * S), mask=mask, other=0.0).to(tl.float32),)
        sums = sums + (tl.zeros([TW, BC], tl.float32),)
        total += tl.load(dconv + (s // PX * width * C + s % PX * C), mask=mask, other=0.0).to(tl.float32)
    part = tile.to(tl.int64) * C + c
    tl.store(dbias + part, tl.sum(total, 0), mask=c < C)
    for ky in range(K):  # not unrolled: all taps at once would not fit into registers
        taps, totals = (), ()
        for kx in tl.static_range(K):
            taps = taps + (_tap(weight, ky * K + kx, c, C, K),)
            totals = totals + (tl.zeros([TW, BC], tl.float32),)
        for line in tl.static_range(TH):
            away = line + K // 2 - ky
            for z in tl.static_range(PX + K - 1):
                mask = _there(row + away, column + i + (z - K // 2), c, height, width, C)
                v = tl.load(dconv + (away * width * C + (z - K // 2) * C), mask=mask, other=0.0).to(tl.float32)
                new_sums, new_totals = (), ()
                for s in tl.static_range(TH * PX):
                    if s // PX == line and s % PX <= z and z < s % PX + K:
                        new_sums = new_sums + (sums[s] + v * taps[s % PX + K - 1 - z],)
                    else:  # both sides of an expression would be compiled
                        new_sums = new_sums + (sums[s],)
                for kx in tl.static_range(K):
                    if z + kx >= K - 1 and z + kx < K - 1 + PX:
                        new_totals = new_totals + (totals[kx] + v * values[line * PX + z + kx - (K - 1)],)
                    else:
                        new_totals = new_totals + (totals[kx],)
                sums, totals = new_sums, new_totals
        for kx in tl.static_range(K):
            tl.store(dweight + part * K * K + ky * K + kx, tl.sum(totals[kx], 0), mask=c < C)
    for s in tl.static_range(TH * PX):
        out = sums[s]
        mask = _there(row + s // PX, column + i + s % PX, c, height, width, C)
        here = first * C + ((s // PX * width + i + s % PX) * C)[:, None] + c[None, :]
        if DIRECT:
            out += tl.load(direct + here, mask=mask, other=0.0)
        tl.store(dx + here, out, mask=mask)


def _block(channels: int) -> int:
    """Channels of a program: as many as leave few lanes idle, in whole 32-byte sectors."""
    for size in (WIDE, 16, 8):
        if -channels % size * 16 <= channels:
            return size
    return min(16, triton.next_power_of_2(channels))


def _sizes(x: Tensor, kernel: int, tile: Tile) -> tuple[int, int, dict]:
    """Tiles, programs, and constants of a kernel."""
    batch, height, width, channels = x.shape
    block = _block(channels)
    lanes = max(1, tile.elements // block)
    tiles = batch * triton.cdiv(height, tile.rows) * triton.cdiv(width, lanes * tile.columns)
    constants = {"C": channels, "K": kernel, "TH": tile.rows, "TW": lanes, "PX": tile.columns, "BC": block}
    options = {"num_warps": tile.warps, "maxnreg": tile.registers}
    return tiles, tiles * triton.cdiv(channels, block), constants | options


def _forward_tile(x: Tensor, weight: Tensor) -> Tile:
    if weight.shape[-1] <= 3:
        return SMALL
    return NARROW if _block(x.shape[-1]) < WIDE else LARGE[x.dtype.itemsize < 4]


def _backward_tile(x: Tensor, weight: Tensor) -> Tile:
    if weight.shape[-1] <= 3:
        return SMALL_BACKWARD
    lanes = max(1, LARGE_BACKWARD.elements // _block(x.shape[-1]))
    return LARGE_BACKWARD._replace(columns=min(LARGE_BACKWARD.columns, triton.cdiv(x.shape[2], lanes)))


def forward(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, kind: str, space: bool = False) -> Tensor:
    """y [B, H, W, C] of x and gate [B, H, W, C], weight [C, 1, K, K] and bias [C]; K odd. Contiguous or padded rows."""
    x, apart = uniform_rows(x)
    gate, gate_apart = (x, apart) if gate is None else uniform_rows(gate)
    y = empty_rows(x, x.dtype, space)
    _, programs, constants = _sizes(x, weight.shape[-1], _forward_tile(x, weight))
    _depthwise[(programs,)](
        *(x, gate, weight.contiguous(), bias, y, *x.shape[1:3]),
        **{"S": apart, "GS": gate_apart, "Y": y.stride(-2), "KIND": kind, **constants},
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
    x, apart = uniform_rows(x)
    side = gate
    gate, gate_apart = (x, apart) if gate is None else uniform_rows(gate)
    kernel, weight, dy = weight.shape[-1], weight.contiguous(), dy.contiguous()
    dconv = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    direct = torch.empty(x.shape, dtype=gate.dtype, device=x.device) if kind in ("gate", "sigmoid") else dy
    _, programs, constants = _sizes(x, kernel, _forward_tile(x, weight))
    _depthwise_outputs[(programs,)](
        *(dy, x, gate, weight, bias, dconv, direct, *x.shape[1:3]),
        **{"S": apart, "GS": gate_apart, "KIND": kind, **constants},
    )
    tiles, programs, constants = _sizes(x, kernel, _backward_tile(x, weight))
    dweight = torch.empty((tiles, *weight.shape), device=x.device)  # of every tile
    dbias = torch.empty((tiles, *bias.shape), device=x.device)
    dx = direct if kind == "sigmoid" else torch.empty_like(dconv)
    _depthwise_inputs[(programs,)](
        *(dconv, x, weight, direct, dx, dweight, dbias, *x.shape[1:3]),
        **{"S": apart, "DIRECT": kind in ("sigmoid", "gelu"), **constants},
    )
    dgate = dx.new_empty(0) if side is None else direct
    return dx, sum_rows(dweight, dbias), dgate
