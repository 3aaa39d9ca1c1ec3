"""Multi-head attention inside windows: one function, three backends.

Windows are w x w pixels; shifted ones start w // 2 pixels further down and right, as if the image were rolled by that.
The relative position bias is added to the scores, and -100 where the roll put pixels of opposite borders side by side.

    plain    matrix products and a softmax: the definition, and what a counter of operations sees
    fused    PyTorch's scaled_dot_product_attention, on the partitioned windows
    triton   kernels of our own (models/ops/attention/triton.py): one custom operator, and nothing is partitioned,
             rolled, masked or expanded in memory

`auto` takes, by device, type, precision and shape alone: on a CUDA device the kernels, except where the products are
those of plain float32 and heads are wide (docs/performance.md has the measurements); on a CPU plain with gradients;
fused otherwise, so also for windows, head sizes and types that the kernels do not take. Within `without_kernels` it
takes plain.
"""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from models.errors import ModelError
from models.ops.common.dispatch import kernels_allowed
from models.ops.common.kernels import unavailable
from models.ops.common.operator import operator
from models.ops.common.precision import float32_products, kernel_products

BACKENDS = ("plain", "fused", "triton")
KERNEL_WINDOWS, KERNEL_HEAD_DIM = (8, 16), 64  # what the kernels take: windows, and head sizes up to
KERNEL_DTYPES = (torch.float32, torch.bfloat16)


# --- bias and mask -------------------------------------------------------------------------------------------------


def relative_position_index(window: int) -> Tensor:
    """int64 [w^2, w^2]: row of the bias table for (query, key), (dy + w - 1)(2w - 1) + dx + w - 1."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def relative_position_bias(table: Tensor, window: int) -> Tensor:
    """table[relative_position_index(window)]: [(2w - 1)^2, heads] -> [heads, w^2, w^2].

    Written without an index: the backward of one adds with atomics, that of padding and slicing in a fixed order.
    """
    reach = 2 * window - 1

    def spread(x: Tensor) -> Tensor:
        """One axis of offsets into two: y[query, key] = x[query - key + w - 1]; [..., 2w - 1] -> [..., w, w]."""
        rows = x.unsqueeze(-2).expand(*x.shape[:-1], window, reach).flatten(-2)  # every query's copy, end to end
        skewed = F.pad(rows, (0, window)).unflatten(-1, (window, reach + 1))  # row q is now x moved left by q
        return skewed[..., :window].flip(-1)

    offsets = table.t().unflatten(1, (reach, reach))  # [heads, dy, dx]
    columns = spread(offsets).permute(0, 2, 3, 1)  # [heads, query x, key x, dy]
    return rearrange(spread(columns), "heads qx kx qy ky -> heads (qy qx) (ky kx)")


def shift_mask(window: int) -> Tensor:
    """[2, 2, w^2, w^2]: what a shifted window adds to its scores, by (is in the last row, is in the last column).

    The roll that shifts the windows by w // 2 puts pixels of opposite borders side by side in the last row and column
    of windows; -100 (official, not -inf) keeps them apart. No other window is affected, so four masks serve any size.
    """
    far = (torch.arange(window) >= window - window // 2).long()  # came round from the other border
    mask = torch.empty(2, 2, window**2, window**2)
    for row in (0, 1):
        for column in (0, 1):
            region = (2 * row * far[:, None] + column * far[None, :]).flatten()  # [w^2]
            mask[row, column] = (region[:, None] != region[None, :]) * -100.0
    return mask


# --- the function --------------------------------------------------------------------------------------------------


def window_attention(
    qkv: Tensor, table: Tensor, mask: Tensor, *, window: int, heads: int, shifted: bool, backend: str = "auto"
) -> Tensor:
    """Attention of every pixel to the pixels of its window.

    qkv: [B, H, W, 3C] as [q, k, v] x head x head_dim; H and W are multiples of the window. table: [(2w - 1)^2, heads],
    the relative position bias. mask: of `shift_mask`, which the kernels compute from indices instead.
    backend: one of BACKENDS or "auto" (see the head of this module).

    Returns [B, H, W, C] in the type of qkv, or of autocast. Raises ModelError for a backend that cannot take these
    tensors, ValueError for shapes that do not fit.
    """
    if not torch.jit.is_tracing():  # sizes are tensors there
        _check_shapes(qkv, table, window, heads)
    backend = resolve(backend, qkv, window, heads)
    if backend == "triton":
        return _in_kernels(qkv, table, window, heads, window // 2 if shifted else 0)
    return _in_windows(qkv, table, mask, window, heads, shifted, fused=backend == "fused")


def resolve(backend: str, qkv: Tensor, window: int, heads: int) -> str:
    """What `backend` stands for. Raises ModelError for "triton" where the kernels cannot run, or an unknown name."""
    if backend == "auto":
        if not kernels_allowed():
            return "plain"
        if qkv.device.type == "cpu" and torch.is_grad_enabled():
            return "plain"  # fused attention has no gradient for a bias there, and its way round that is slower
        if unavailable(qkv.device) is not None or _refusal(qkv, window, heads) is not None:
            return "fused"
        narrow = qkv.shape[3] // 3 // heads <= (16 if torch.is_grad_enabled() else 32)
        return "triton" if narrow or kernel_products(qkv) is not None else "fused"
    if backend not in BACKENDS:
        raise ModelError(f"unknown attention backend {backend!r}: choose one of auto, {', '.join(BACKENDS)}")
    if backend == "triton" and (reason := unavailable(qkv.device) or _refusal(qkv, window, heads)):
        raise ModelError(f"attention in Triton kernels: {reason}; take 'fused'")
    return backend


def _refusal(qkv: Tensor, window: int, heads: int) -> str | None:
    """Why the kernels do not take these tensors, or None: a function of type and shape only."""
    head_dim = qkv.shape[3] // 3 // heads
    if qkv.dtype not in KERNEL_DTYPES:
        return f"they take float32 and bfloat16, not {qkv.dtype}"
    if window not in KERNEL_WINDOWS or head_dim > KERNEL_HEAD_DIM:
        return f"they take windows of 8 and 16 and heads of up to {KERNEL_HEAD_DIM}, not {window} and {head_dim}"
    return None


def _check_shapes(qkv: Tensor, table: Tensor, window: int, heads: int) -> None:
    if qkv.ndim != 4 or qkv.shape[3] % (3 * heads) or qkv.shape[1] % window or qkv.shape[2] % window:
        raise ValueError(
            f"qkv must be [B, H, W, 3C], H and W multiples of the window {window} and C of {heads} heads, "
            f"not {list(qkv.shape)}"
        )
    if tuple(table.shape) != ((2 * window - 1) ** 2, heads):
        raise ValueError(f"the bias table must be {[(2 * window - 1) ** 2, heads]}, not {list(table.shape)}")


# --- in PyTorch ----------------------------------------------------------------------------------------------------


def _in_windows(
    qkv: Tensor, table: Tensor, mask: Tensor, window: int, heads: int, shifted: bool, fused: bool
) -> Tensor:
    """Rolls the image; windows in the last row and column, whose masks differ, are taken apart from the others."""
    bias = relative_position_bias(table, window)
    if not shifted:
        return _attend(qkv, bias, window, heads, fused)
    shift = window // 2
    qkv = qkv.roll((-shift, -shift), (1, 2))
    height, width = qkv.shape[1] - window, qkv.shape[2] - window  # start of the last row and column
    rows = []
    for row, band in enumerate(qkv.tensor_split([height], 1)):
        parts = [
            _attend(part, bias + mask[row, column], window, heads, fused)
            for column, part in enumerate(band.tensor_split([width], 2))
            if part.numel()
        ]
        rows += [torch.cat(parts, 2)] if parts else []
    return torch.cat(rows, 1).roll((shift, shift), (1, 2))


def _attend(qkv: Tensor, bias: Tensor, window: int, heads: int, fused: bool) -> Tensor:
    """Attention inside every window: qkv [B, H, W, 3C], bias [heads, w^2, w^2] -> [B, H, W, C]."""
    height, width = qkv.shape[1] // window, qkv.shape[2] // window
    pattern = "b (nh wh) (nw ww) (three heads d) -> three (b nh nw) heads (wh ww) d"
    q, k, v = rearrange(qkv, pattern, three=3, heads=heads, wh=window, ww=window)
    if fused:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
    else:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias  # [B nh nw, heads, w^2, w^2]
        out = scores.softmax(-1) @ v
    return rearrange(out, "(b nh nw) heads (wh ww) d -> b (nh wh) (nw ww) (heads d)", nh=height, nw=width, wh=window)


# --- in kernels ----------------------------------------------------------------------------------------------------


def _in_kernels(qkv: Tensor, table: Tensor, window: int, heads: int, shift: int) -> Tensor:
    if torch.is_autocast_enabled(qkv.device.type):
        qkv = qkv.to(torch.get_autocast_dtype(qkv.device.type))
    products = "bf16" if qkv.dtype == torch.bfloat16 else float32_products()
    save = torch.is_grad_enabled() and (qkv.requires_grad or table.requires_grad)
    return _attention(qkv, table, window, heads, shift, products, save)[0]


@operator("mambair_bench::window_attention")
def _attention(
    qkv: Tensor, table: Tensor, window: int, heads: int, shift: int, products: str, save: bool
) -> tuple[Tensor, Tensor]:
    from models.ops.attention import triton as kernels

    return kernels.forward(qkv, table, window, heads, shift, products, save)


@_attention.register_fake
def _(qkv, table, window, heads, shift, products, save):
    batch, height, width, channels = qkv.shape
    windows = batch * (height // window) * (width // window)
    softmax = (2, windows, heads, window**2) if save else (0,)
    return qkv.new_empty(batch, height, width, channels // 3), qkv.new_empty(softmax, dtype=torch.float32)


@operator("mambair_bench::window_attention_backward")
def _attention_backward(
    grad: Tensor,
    qkv: Tensor,
    table: Tensor,
    out: Tensor,
    softmax: Tensor,
    window: int,
    heads: int,
    shift: int,
    products: str,
) -> tuple[Tensor, Tensor]:
    from models.ops.attention import triton as kernels

    return kernels.backward(grad, qkv, table, out, softmax, window, heads, shift, products)


@_attention_backward.register_fake
def _(grad, qkv, table, out, softmax, window, heads, shift, products):
    return qkv.new_empty(qkv.shape), table.new_empty(table.shape, dtype=torch.float32)


def _setup_context(ctx, inputs, output) -> None:
    qkv, table, *ctx.arguments, ctx.saves = inputs
    ctx.save_for_backward(qkv, table, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, grad_softmax):
    if grad is None:
        return (None,) * 7
    if not ctx.saves:
        raise RuntimeError("window_attention was called with save=False and has no backward")
    qkv, table, out, softmax = ctx.saved_tensors
    backward = torch.ops.mambair_bench.window_attention_backward
    grad_qkv, grad_table = backward(grad.to(qkv.dtype), qkv, table, out, softmax, *ctx.arguments)
    return grad_qkv, grad_table.to(table.dtype), *(None,) * 5


_attention.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.mambair_bench.window_attention)
def forward_flops(qkv_shape, table_shape, window, *args, out_shape=None, **kwargs) -> int:
    """Two matrix products, 2 per multiply-add: every pixel with the w^2 of its window in C channels."""
    batch, height, width, channels = qkv_shape
    return 2 * 2 * batch * height * width * window**2 * (channels // 3)


@register_flop_formula(torch.ops.mambair_bench.window_attention_backward)
def backward_flops(grad_shape, qkv_shape, table_shape, out_shape_, softmax_shape, window, *args, **kwargs) -> int:
    """Five: the scores again, and the gradients of weights, queries, keys and values. (The kernels take seven.)"""
    return forward_flops(qkv_shape, table_shape, window) // 2 * 5
