"""Multi-head attention inside windows: one function, three backends.

Windows are w x w pixels; shifted ones start w // 2 pixels further down and right, as if the image were rolled by that.
The relative position bias is added to the scores, and -100 where the roll put pixels of opposite borders side by side.

    plain    matrix products and a softmax: the definition (reference.py), and what a counter of operations sees
    fused    PyTorch's scaled_dot_product_attention, on the partitioned windows
    triton   kernels of our own (triton.py) as one custom operator (operator.py): nothing is partitioned, rolled,
             masked or expanded in memory

`auto` takes, by device, type, precision and shape alone: on a CUDA device the kernels, except where the products are
those of plain float32 and heads are wide (docs/performance.md has the measurements); on a CPU plain with gradients;
fused otherwise, so also for windows, head sizes and types that the kernels do not take. Within `without_kernels` it
takes plain.
"""

import torch
from torch import Tensor

from models.errors import ModelError
from models.ops.attention import operator, reference
from models.ops.attention.reference import relative_position_index, shift_mask
from models.ops.common.dispatch import kernels_allowed
from models.ops.common.kernels import unavailable
from models.ops.common.precision import float32_products, kernel_products

__all__ = ["BACKENDS", "relative_position_index", "resolve", "shift_mask", "unavailable", "window_attention"]

BACKENDS = ("plain", "fused", "triton")
KERNEL_WINDOWS, KERNEL_HEAD_DIM = (8, 16), 64  # what the kernels take: windows, and head sizes up to
KERNEL_DTYPES = (torch.float32, torch.bfloat16)


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
    return reference.window_attention(qkv, table, mask, window, heads, shifted, fused=backend == "fused")


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


def _in_kernels(qkv: Tensor, table: Tensor, window: int, heads: int, shift: int) -> Tensor:
    if torch.is_autocast_enabled(qkv.device.type):
        qkv = qkv.to(torch.get_autocast_dtype(qkv.device.type))
    products = "bf16" if qkv.dtype == torch.bfloat16 else float32_products()
    save = torch.is_grad_enabled() and (qkv.requires_grad or table.requires_grad)
    return operator.window_attention(qkv, table, window, heads, shift, products, save)[0]
