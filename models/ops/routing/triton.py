"""Routing in one pass: logits z = W hidden + b and noise in registers, the class of every pixel; and the gradients that
come through softmax(z + noise). Products are as exact as float32's in every precision: a class is a comparison.

R features of `hidden`, T classes. A program has one tile of pixels: going over several it would keep the weights in
registers, which then are too few. What is summed over pixels is summed by tiles and then over tiles: no atomics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops.common.products import dot, split, transposed
from models.ops.common.sums import sum_rows
from models.ops.noise.triton import philox_gumbel

PIXELS, WARPS = 64, 4  # of a program, as measured with 128 classes on an H100 and with 64 on an H200
GRADIENTS = 4096  # logits of a program of gradients
PRODUCTS = tl.constexpr("tf32x3")


@triton.jit
def _scores(
    hidden,
    weight,
    bias,
    keys,
    layer,
    tile,
    tiles,
    length,
    R: tl.constexpr,
    T: tl.constexpr,
    KEYS: tl.constexpr,
    P: tl.constexpr,
    BR: tl.constexpr,
    BT: tl.constexpr,
):
    """Logits plus noise [P, BT] of a tile's pixels, their features [P, BR] and the weights [BT, BR] as sides of `dot`,
    the row of each pixel, and which of them exist."""
    image = tile // tiles
    pixel = (tile % tiles) * P + tl.arange(0, P)
    there = pixel < length
    row = image.to(tl.int64) * length + pixel
    r, t = tl.arange(0, BR), tl.arange(0, BT)
    h = tl.load(hidden + row[:, None] * R + r[None, :], mask=there[:, None] & (r < R)[None, :], other=0.0)
    w = tl.load(weight + t[:, None] * R + r[None, :], mask=(t < T)[:, None] & (r < R)[None, :], other=0.0)
    h, w = split(h, PRODUCTS), split(w, PRODUCTS)
    z = dot(h, transposed(w), PRODUCTS) + tl.load(bias + t, mask=t < T, other=0.0)[None, :]
    if KEYS > 0:
        key = tl.load(keys + (image if KEYS > 1 else 0))
        z += philox_gumbel(key, tl.load(layer), pixel, BT)
    return tl.where((t < T)[None, :], z, float("-inf")), h, w, row, there


@triton.jit
def _routing(
    hidden,
    weight,
    bias,
    keys,
    layer,
    classes,
    tiles,
    length,
    R: tl.constexpr,
    T: tl.constexpr,
    KEYS: tl.constexpr,
    P: tl.constexpr,
    BR: tl.constexpr,
    BT: tl.constexpr,
):
    tile = tl.program_id(0)
    z, _, _, row, there = _scores(hidden, weight, bias, keys, layer, tile, tiles, length, R, T, KEYS, P, BR, BT)
    best = tl.minimum(tl.argmax(z, 1), T - 1)  # logits that are not numbers still give a class
    tl.store(classes + row, best.to(tl.int64), mask=there)


@triton.jit
def _routing_gradients(
    hidden,
    weight,
    bias,
    keys,
    layer,
    grad,  # [pixels, T], of softmax(z + noise)
    dhidden,
    sums,  # [tiles of the batch, T R + T]: dweight, dbias
    tiles,
    length,
    R: tl.constexpr,
    T: tl.constexpr,
    KEYS: tl.constexpr,
    P: tl.constexpr,
    BR: tl.constexpr,
    BT: tl.constexpr,
):
    tile = tl.program_id(0)
    z, h, w, row, there = _scores(hidden, weight, bias, keys, layer, tile, tiles, length, R, T, KEYS, P, BR, BT)
    e = tl.exp(z - tl.max(z, 1)[:, None])
    soft = e / tl.sum(e, 1)[:, None]
    r, t = tl.arange(0, BR), tl.arange(0, BT)
    g = tl.load(grad + row[:, None] * T + t[None, :], mask=there[:, None] & (t < T)[None, :], other=0.0)
    dz = soft * (g - tl.sum(soft * g, 1)[:, None])
    sums += tile.to(tl.int64) * (T * R + T)
    tl.store(sums + T * R + t, tl.sum(dz, 0), mask=t < T)
    dz = split(dz, PRODUCTS)
    mask = there[:, None] & (r < R)[None, :]
    tl.store(dhidden + row[:, None] * R + r[None, :], dot(dz, w, PRODUCTS), mask=mask)
    dweight = dot(transposed(dz), h, PRODUCTS)
    tl.store(sums + t[:, None] * R + r[None, :], dweight, mask=(t < T)[:, None] & (r < R)[None, :])


def _padded(count: int) -> int:
    return max(16, triton.next_power_of_2(count))


def _sizes(hidden: Tensor, weight: Tensor, keys: Tensor | None, pixels: int) -> tuple[int, int, dict]:
    """Tiles of the batch and of an image, and constants of a kernel."""
    (batch, length, _), (classes, features) = hidden.shape, weight.shape
    wide = _padded(classes)
    tiles = triton.cdiv(length, pixels)
    constants = {"R": features, "T": classes, "P": pixels, "BT": wide}
    constants |= {"BR": _padded(features)}
    constants |= {"KEYS": 0 if keys is None else min(len(keys), 2)}  # none, one for all images, one each
    return batch * tiles, tiles, constants


def assign(hidden: Tensor, weight: Tensor, bias: Tensor, keys: Tensor | None, layer: Tensor) -> Tensor:
    """argmax over T of the logits of `hidden` [B, L, R] plus noise: int64 [B, L]. weight [T, R], bias [T]; float32,
    contiguous.

    keys: int64 [B] or [1], of the noise; None for no noise. layer: int64 [], on the device too.
    """
    out = torch.empty(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
    count, tiles, constants = _sizes(hidden, weight, keys, PIXELS)
    _routing[(count,)](hidden, weight, bias, keys, layer, out, tiles, hidden.shape[1], num_warps=WARPS, **constants)
    return out


def gradients(
    grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, keys: Tensor | None, layer: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden, and of weight and bias one after the other, from that of the softmax over T of what `assign`
    compares, grad [B, L, T]."""
    out = torch.empty_like(hidden)
    count, tiles, constants = _sizes(hidden, weight, keys, max(16, GRADIENTS // _padded(len(weight))))
    sums = torch.empty((count, weight.numel() + len(bias)), device=hidden.device)
    _routing_gradients[(count,)](
        *(hidden, weight, bias, keys, layer, grad.contiguous(), out, sums, tiles, hidden.shape[1]),
        num_warps=4 if constants["BT"] <= 64 else 8,
        **constants,
    )
    return out, sum_rows(sums)
