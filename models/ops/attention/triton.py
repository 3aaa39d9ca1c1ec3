"""Window attention: shift, windows, bias and mask are index arithmetic. Between qkv and the output (or their gradients)
nothing is stored but two numbers for each query and head, top and 1 / total. (Their sum in the logarithm would do, but
p = exp(x - that) then is as inexact as that is large.)

    x_qk = <q, k> / sqrt(d) + table[offset(q, k)] - 100 [q and k lie in different regions]
    p_qk = exp(x_qk - top_q) / total_q        top_q = max_k x_qk, in the power of two: 2^(log2(e) x - log2(e) top)
    out_q = sum_k p_qk v_k        dx_qk = p_qk (<dout_q, v_k> - delta_q)        delta_q = <dout_q, out_q>

Letters: w window, T = w^2 tokens of one, d head_dim, P d padded to a power of two, C = heads d, n windows of the batch.
Token t of a window is its pixel (t // w, t % w); windows are numbered image by image in raster order.

A program holds BM rows (queries, or keys in `_attention_keys`) of one window and head and walks through the other side
BN tokens at a time. Sums run in a fixed order: no atomics. The gradient of the table is summed over windows in
registers by `_attention_queries`, which gives every program the same rows of several windows, over pairs of tokens by
`_attention_offsets`, and then over groups of windows.

Products are those of models/ops/common/products.py. The result of one, whose columns 2c and 2c + 1 a thread holds,
becomes the next one's left side, of which it must hold c and c + 4, by numbering the tokens summed over in another
order, in `left_side` and `right_side` (models/ops/attention/triton_windows.py) alike. Nothing moves between threads."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops.attention.triton_windows import (
    find_window,
    left_side,
    lookup,
    mask_scores,
    offset_of,
    pixels_of,
    read_rows,
    right_side,
    scale_rows,
    store_rows,
)
from models.ops.common.products import dot, split, transposed
from models.ops.common.sums import sum_rows

PROGRAMS = 256  # of `_attention_queries`; fixed, so that the order of sums depends on shapes only
NARROW = 2**31  # elements of an image from which offsets have 64 bits

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["height", "width", "rest"])
def _attention(
    qkv,  # [pixels, 3C]
    table,  # [heads, (2w - 1)^2]
    out,  # [pixels, C]
    softmax,  # [2, n, heads, T]: log2(e) top and 1 / total
    height,
    width,
    rest,  # n heads T
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    W: tl.constexpr,
    SHIFT: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    SAVE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
):
    T: tl.constexpr = W * W
    C: tl.constexpr = HEADS * D
    program = tl.program_id(0)
    block = program % (T // BM)
    head = program // (T // BM) % HEADS
    index = program // (T // BM) // HEADS
    window = find_window(index, height, width, SHIFT, W)
    qkv += window[0] * (3 * C) + head * D
    out += window[0] * C + head * D
    queries = block * BM + tl.arange(0, BM)
    pixels = pixels_of(queries, window, height, width, W, WIDE)
    q = split(read_rows(qkv, pixels, 3 * C, D, P, 0.0), PRECISION)
    bias = table + head * (2 * W - 1) * (2 * W - 1) + 2 * W * (W - 1) + offset_of(queries, W)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    sums = tl.zeros([BM, P], tl.float32)
    for start in tl.range(0, T, BN, num_stages=STAGES):
        keys = start + tl.arange(0, BN)
        at = pixels_of(keys, window, height, width, W, WIDE)
        k = read_rows(qkv + C, at, 3 * C, D, P, 0.0)
        x = dot(q, transposed(split(k, PRECISION)), PRECISION)  # [BM, BN]
        x = x * scale + lookup(bias[:, None] - offset_of(keys, W)[None, :], start)
        x = mask_scores(x, queries, keys, window, SHIFT, W, True)
        new = tl.maximum(top, tl.max(x, 1) * LOG2E)
        p = tl.exp2(x * LOG2E - new[:, None])
        rescale = tl.exp2(top - new)
        # Where d is padded, a padded column of ones on the right makes the products give the sum of p as well.
        v = right_side(split(read_rows(qkv + 2 * C, at, 3 * C, D, P, 1.0), PRECISION), BN, P, PRECISION)
        sums = sums * rescale[:, None] + dot(left_side(p, BM, BN, PRECISION), v, PRECISION)
        if D == P:
            total = total * rescale + tl.sum(p, 1)
        top = new
    if D < P:
        total = tl.sum(tl.where(tl.arange(0, P)[None, :] == D, sums, 0.0), 1)
    store_rows(out, pixels, sums / total[:, None], C, D, P)
    if SAVE:
        tokens = (index * HEADS + head).to(tl.int64) * T + queries
        tl.store(softmax + tokens, top)
        tl.store(softmax + rest + tokens, 1.0 / total)


@triton.jit(do_not_specialize=["height", "width", "rest", "windows", "groups"])
def _attention_queries(
    grad_out,  # [pixels, C]
    qkv,
    table,
    out,
    softmax,
    delta,  # [n, heads, T]: delta / total, written for `_attention_keys`
    grad_qkv,  # [pixels, 3C]: the first C are written here
    partial,  # [groups, heads, T, T]: dx summed over the windows of a group
    height,
    width,
    rest,
    windows,
    groups,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    W: tl.constexpr,
    SHIFT: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    T: tl.constexpr = W * W
    C: tl.constexpr = HEADS * D
    program = tl.program_id(0)
    block = program % (T // BM)
    head = program // (T // BM) % HEADS
    group = program // (T // BM) // HEADS
    queries = block * BM + tl.arange(0, BM)
    bias = table + head * (2 * W - 1) * (2 * W - 1) + 2 * W * (W - 1) + offset_of(queries, W)
    grad_bias = ()
    for _ in tl.static_range(T // BN):
        grad_bias = grad_bias + (tl.zeros([BM, BN], tl.float32),)  # noqa: RUF005 Triton unpacks nothing
    for index in range(group, windows, groups):
        window = find_window(index, height, width, SHIFT, W)
        pixels = pixels_of(queries, window, height, width, W, WIDE)
        tokens = (index * HEADS + head).to(tl.int64) * T + queries
        inputs = qkv + (window[0] * (3 * C) + head * D)
        do = read_rows(grad_out + (window[0] * C + head * D), pixels, C, D, P, 0.0)
        o = read_rows(out + (window[0] * C + head * D), pixels, C, D, P, 0.0)
        top = tl.load(softmax + tokens)
        share = tl.load(softmax + rest + tokens)
        do = scale_rows(do, share)
        d = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
        tl.store(delta + tokens, d)
        do = split(do, PRECISION)
        q = split(read_rows(inputs, pixels, 3 * C, D, P, 0.0), PRECISION)
        dq = tl.zeros([BM, P], tl.float32)
        updated = ()
        for i in tl.static_range(T // BN):
            keys = i * BN + tl.arange(0, BN)
            at = pixels_of(keys, window, height, width, W, WIDE)
            k = split(read_rows(inputs + C, at, 3 * C, D, P, 0.0), PRECISION)
            v = split(read_rows(inputs + 2 * C, at, 3 * C, D, P, 0.0), PRECISION)
            x = dot(q, transposed(k), PRECISION)  # [BM, BN]
            x = x * scale + lookup(bias[:, None] - offset_of(keys, W)[None, :], index)
            x = mask_scores(x, queries, keys, window, SHIFT, W, False)
            p = tl.exp2(x * LOG2E - top[:, None])  # times total
            dx = p * (dot(do, transposed(v), PRECISION) - d[:, None])
            updated = updated + (grad_bias[i] + dx,)  # noqa: RUF005
            dq += dot(left_side(dx, BM, BN, PRECISION), right_side(k, BN, P, PRECISION), PRECISION)
        grad_bias = updated
        store_rows(grad_qkv + (window[0] * (3 * C) + head * D), pixels, dq * scale, 3 * C, D, P)
    for i in tl.static_range(T // BN):
        cells = partial + ((group * HEADS + head) * T + queries[:, None]) * T + i * BN + tl.arange(0, BN)[None, :]
        tl.store(cells, grad_bias[i])


@triton.jit(do_not_specialize=["height", "width", "rest"])
def _attention_keys(
    grad_out,
    qkv,
    table,
    softmax,
    delta,
    grad_qkv,  # the last 2C of every pixel are written here
    height,
    width,
    rest,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    W: tl.constexpr,
    SHIFT: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
):
    T: tl.constexpr = W * W
    C: tl.constexpr = HEADS * D
    program = tl.program_id(0)
    block = program % (T // BM)
    head = program // (T // BM) % HEADS
    index = program // (T // BM) // HEADS
    window = find_window(index, height, width, SHIFT, W)
    qkv += window[0] * (3 * C) + head * D
    grad_qkv += window[0] * (3 * C) + head * D
    grad_out += window[0] * C + head * D
    keys = block * BM + tl.arange(0, BM)
    pixels = pixels_of(keys, window, height, width, W, WIDE)
    k = split(read_rows(qkv + C, pixels, 3 * C, D, P, 0.0), PRECISION)
    v = split(read_rows(qkv + 2 * C, pixels, 3 * C, D, P, 0.0), PRECISION)
    bias = table + head * (2 * W - 1) * (2 * W - 1) + 2 * W * (W - 1) - offset_of(keys, W)
    dk = tl.zeros([BM, P], tl.float32)
    dv = tl.zeros([BM, P], tl.float32)
    for start in tl.range(0, T, BN, num_stages=STAGES):
        queries = start + tl.arange(0, BN)
        at = pixels_of(queries, window, height, width, W, WIDE)
        tokens = (index * HEADS + head).to(tl.int64) * T + queries
        q = split(read_rows(qkv, at, 3 * C, D, P, 0.0), PRECISION)
        do = scale_rows(read_rows(grad_out, at, C, D, P, 0.0), tl.load(softmax + rest + tokens))
        do = split(do, PRECISION)
        x = dot(k, transposed(q), PRECISION)  # [BM keys, BN queries]
        x = x * scale + lookup(bias[:, None] + offset_of(queries, W)[None, :], start)
        x = mask_scores(x, keys, queries, window, SHIFT, W, True)
        p = tl.exp2(x * LOG2E - tl.load(softmax + tokens)[None, :])  # times total
        dv += dot(left_side(p, BM, BN, PRECISION), right_side(do, BN, P, PRECISION), PRECISION)
        dx = p * (dot(v, transposed(do), PRECISION) - tl.load(delta + tokens)[None, :])
        dk += dot(left_side(dx, BM, BN, PRECISION), right_side(q, BN, P, PRECISION), PRECISION)
    store_rows(grad_qkv + C, pixels, dk * scale, 3 * C, D, P)
    store_rows(grad_qkv + 2 * C, pixels, dv, 3 * C, D, P)


@triton.jit
def _attention_offsets(
    partial,  # [groups, heads, T, T]
    sums,  # [groups, (2w - 1)^2, heads]
    HEADS: tl.constexpr,
    W: tl.constexpr,
):
    """Sums dx of a group over all pairs of tokens dy rows apart, a row of the table for one head in a program."""
    T: tl.constexpr = W * W
    ROWS: tl.constexpr = 2 * W - 1
    head = tl.program_id(0) % HEADS
    dy = tl.program_id(0) // HEADS % ROWS - (W - 1)
    group = tl.program_id(0) // HEADS // ROWS
    y = tl.arange(0, W)[:, None, None]
    xq = tl.arange(0, W)[None, :, None]
    xk = tl.arange(0, W)[None, None, :]
    cells = (y * W + xq) * T + (y - dy) * W + xk  # [query's y, query's x, key's x]
    inside = (y >= dy) & (y < W + dy) & (xq >= 0) & (xk >= 0)
    total = tl.load(partial + (group * HEADS + head) * T * T + cells, mask=inside, other=0.0)
    pairs = tl.sum(total, 0)[:, :, None]  # [query's x, key's x, 1]
    dx = tl.arange(0, 2 * W)[None, None, :] - (W - 1)
    apart = tl.arange(0, W)[:, None, None] - tl.arange(0, W)[None, :, None]
    row = tl.sum(tl.sum(tl.where(apart == dx, pairs, 0.0), 0), 0)  # [2w]
    dx = tl.arange(0, 2 * W)
    tl.store(sums + ((group * ROWS + dy + W - 1) * ROWS + dx) * HEADS + head, row, mask=dx < ROWS)


class Blocks(NamedTuple):
    """How a kernel cuts its work: rows of a program, tokens of a step, warps, and steps loaded ahead (1: none)."""

    rows: int
    step: int
    warps: int
    stages: int = 1


# Steps of 32 tokens keep sums on tensor cores short, as float32 accuracy needs; they are added up outside of them.
FORWARD = {
    "ieee": Blocks(64, 32, 4),
    "tf32x3": Blocks(128, 32, 8),
    "tf32": Blocks(128, 64, 8),
    "bf16": Blocks(128, 64, 8),
}
NARROW_HEADS = {"bf16": Blocks(64, 64, 4)}  # for heads padded to 16
QUERIES = Blocks(64, 32, 4)
QUERIES_NARROW = {"bf16": Blocks(64, 64, 4)}  # for heads padded to 16
KEYS, KEYS_WIDE = Blocks(64, 32, 4), Blocks(128, 32, 8)  # heads padded to 16, and to more


def _on_device(x: Tensor) -> AbstractContextManager:
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def _shape(qkv: Tensor, window: int, heads: int, shift: int, precision: str) -> tuple[int, dict]:
    """(number of windows, arguments that all kernels share) of qkv [B, H, W, 3C]."""
    batch, height, width, channels = qkv.shape
    d = channels // 3 // heads
    windows = batch * (height // window) * (width // window)
    shared = {"height": height, "width": width, "rest": windows * heads * window**2, "scale": d**-0.5}
    shared |= {"HEADS": heads, "D": d, "P": max(16, triton.next_power_of_2(d))}
    shared |= {"W": window, "SHIFT": shift, "PRECISION": precision}
    shared |= {"WIDE": height * width * channels >= NARROW}
    return windows, shared


def _cut(blocks: Blocks, tokens: int) -> dict:
    """Arguments of a launch; num_stages is of loops that do not say their own (over windows: load nothing ahead)."""
    cut = {"BM": min(blocks.rows, tokens), "BN": min(blocks.step, tokens)}
    return cut | {"num_warps": blocks.warps, "num_stages": 1}


def forward(
    qkv: Tensor,
    table: Tensor,
    window: int,
    heads: int,
    shift: int,
    precision: str,
    save: bool,
    blocks: Blocks | None = None,
) -> tuple[Tensor, Tensor]:
    """(out [B, H, W, C] in the dtype of qkv, softmax [2, n, heads, T] float32 for `backward`, empty unless `save`)."""
    qkv = qkv.contiguous()
    windows, shared = _shape(qkv, window, heads, shift, precision)
    tokens = window**2
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    softmax = qkv.new_empty((2, windows, heads, tokens) if save else (0,), dtype=torch.float32)
    blocks = blocks or (NARROW_HEADS.get(precision) if shared["P"] == 16 else None) or FORWARD[precision]
    cut = _cut(blocks, tokens)
    with _on_device(qkv):
        _attention[(windows * heads * (tokens // cut["BM"]),)](
            qkv, table.float().t().contiguous(), out, softmax, SAVE=save, STAGES=blocks.stages, **shared, **cut
        )
    return out, softmax


def backward(
    grad_out: Tensor,
    qkv: Tensor,
    table: Tensor,
    out: Tensor,
    softmax: Tensor,
    window: int,
    heads: int,
    shift: int,
    precision: str,
    blocks: tuple[Blocks | None, Blocks | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """Gradients of qkv, in its dtype, and of the table [(2w - 1)^2, heads], float32."""
    grad_out, qkv = grad_out.contiguous(), qkv.contiguous()
    windows, shared = _shape(qkv, window, heads, shift, precision)
    tokens = window**2
    table = table.float().t().contiguous()
    cut = _cut(blocks[0] or (QUERIES_NARROW.get(precision) if shared["P"] == 16 else None) or QUERIES, tokens)
    programs = heads * (tokens // cut["BM"])  # of a group
    groups = max(1, min(windows, PROGRAMS // programs))
    partial = softmax.new_empty(groups, heads, tokens, tokens)
    delta, grad_qkv = torch.empty_like(softmax[0]), torch.empty_like(qkv)
    sums = softmax.new_empty(groups, table.shape[1], heads)
    with _on_device(qkv):
        _attention_queries[(groups * programs,)](
            *(grad_out, qkv, table, out, softmax, delta, grad_qkv, partial),
            windows=windows,
            groups=groups,
            **shared,
            **cut,
        )
        _attention_offsets[(groups * (2 * window - 1) * heads,)](partial, sums, HEADS=heads, W=window)
        keys = blocks[1] or (KEYS if shared["P"] == 16 else KEYS_WIDE)
        cut = _cut(keys, tokens)
        _attention_keys[(windows * heads * (tokens // cut["BM"]),)](
            *(grad_out, qkv, table, softmax, delta, grad_qkv), STAGES=keys.stages, **shared, **cut
        )
        grad_table = sum_rows(sums).view(table.shape[1], heads)
    return grad_qkv, grad_table
