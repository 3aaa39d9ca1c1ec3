"""Routing in one pass: noise in registers, the class of every pixel; and the gradient of softmax(logits + noise)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.noise import philox_gumbel

ELEMENTS = 4096  # logits of a program


@triton.jit
def _scores(
    logits, keys, layer, tile, tiles, length, T: tl.constexpr, KEYS: tl.constexpr, P: tl.constexpr, BT: tl.constexpr
):
    """Logits plus noise [P, BT] of a program's pixels, the row of each, and which of them exist."""
    image = tile // tiles
    pixel = (tile % tiles) * P + tl.arange(0, P)
    there = pixel < length
    row = image.to(tl.int64) * length + pixel
    t = tl.arange(0, BT)
    z = tl.load(logits + row[:, None] * T + t[None, :], mask=there[:, None] & (t < T)[None, :], other=0.0).to(
        tl.float32
    )
    if KEYS > 0:
        key = tl.load(keys + (image if KEYS > 1 else 0))
        z += philox_gumbel(key, tl.load(layer), pixel, BT)
    return tl.where((t < T)[None, :], z, float("-inf")), row, there


@triton.jit
def _routing(
    logits, keys, layer, classes, tiles, length, T: tl.constexpr, KEYS: tl.constexpr, P: tl.constexpr, BT: tl.constexpr
):
    z, row, there = _scores(logits, keys, layer, tl.program_id(0), tiles, length, T, KEYS, P, BT)
    best = tl.minimum(tl.argmax(z, 1), T - 1)  # logits that are not numbers still give a class
    tl.store(classes + row, best.to(tl.int64), mask=there)


@triton.jit
def _routing_gradient(
    logits,
    keys,
    layer,
    grad,
    out,
    tiles,
    length,
    T: tl.constexpr,
    KEYS: tl.constexpr,
    P: tl.constexpr,
    BT: tl.constexpr,
):
    z, row, there = _scores(logits, keys, layer, tl.program_id(0), tiles, length, T, KEYS, P, BT)
    t = tl.arange(0, BT)
    e = tl.exp(z - tl.max(z, 1)[:, None])
    soft = e / tl.sum(e, 1)[:, None]
    at = row[:, None] * T + t[None, :]
    mask = there[:, None] & (t < T)[None, :]
    g = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, soft * (g - tl.sum(soft * g, 1)[:, None]), mask=mask)


def _launch(kernel, logits: Tensor, keys: Tensor | None, layer: Tensor, *tensors: Tensor) -> None:
    batch, length, classes = logits.shape
    wide = max(4, triton.next_power_of_2(classes))
    pixels = max(1, ELEMENTS // wide)
    tiles = triton.cdiv(length, pixels)
    count = 0 if keys is None else min(len(keys), 2)  # none, one for all images, one each
    kernel[(batch * tiles,)](
        logits,
        logits if keys is None else keys,
        layer,
        *tensors,
        tiles,
        length,
        classes,
        count,
        pixels,
        wide,
        num_warps=8,
    )


def assign(logits: Tensor, keys: Tensor | None, layer: Tensor) -> Tensor:
    """argmax over classes of logits [B, L, T] (contiguous) plus noise: int64 [B, L].

    keys: int64 [B] or [1], of the noise; None for no noise. layer: int64 [], on the device too.
    """
    out = torch.empty(logits.shape[:2], dtype=torch.int64, device=logits.device)
    _launch(_routing, logits, keys, layer, out)
    return out


def gradient(logits: Tensor, keys: Tensor | None, layer: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the logits from that of softmax(logits + noise), both [B, L, T]; noise as in `assign`."""
    out = torch.empty_like(logits)
    _launch(_routing_gradient, logits, keys, layer, grad.contiguous(), out)
    return out
