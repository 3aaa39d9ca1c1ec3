"""`mambair_bench::window_attention`, the custom operator of the kernels, its backward and the operations of both."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from models.ops.common.operator import operator


@operator("mambair_bench::window_attention")
def window_attention(
    qkv: Tensor, table: Tensor, window: int, heads: int, shift: int, products: str, save: bool
) -> tuple[Tensor, Tensor]:
    from models.ops.attention import triton as kernels

    return kernels.forward(qkv, table, window, heads, shift, products, save)


@window_attention.register_fake
def _(qkv, table, window, heads, shift, products, save):
    batch, height, width, channels = qkv.shape
    windows = batch * (height // window) * (width // window)
    softmax = (2, windows, heads, window**2) if save else (0,)
    return qkv.new_empty(batch, height, width, channels // 3), qkv.new_empty(softmax, dtype=torch.float32)


@operator("mambair_bench::window_attention_backward")
def window_attention_backward(
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


@window_attention_backward.register_fake
def _(grad, qkv, table, out, softmax, window, heads, shift, products):
    return qkv.new_empty(qkv.shape), table.new_empty(table.shape, dtype=torch.float32)


def _context(ctx, inputs, output) -> None:
    qkv, table, *ctx.arguments, ctx.saves = inputs
    ctx.save_for_backward(qkv, table, *output)
    ctx.set_materialize_grads(False)


def _gradients(ctx, grad, grad_softmax):
    if grad is None:
        return (None,) * 7
    if not ctx.saves:
        raise RuntimeError("window_attention was called with save=False and has no backward")
    qkv, table, out, softmax = ctx.saved_tensors
    backward = torch.ops.mambair_bench.window_attention_backward
    grad_qkv, grad_table = backward(grad.to(qkv.dtype), qkv, table, out, softmax, *ctx.arguments)
    return grad_qkv, grad_table.to(table.dtype), *(None,) * 5


window_attention.register_autograd(_gradients, setup_context=_context)


@register_flop_formula(torch.ops.mambair_bench.window_attention)
def forward_flops(qkv_shape, table_shape, window, *args, out_shape=None, **kwargs) -> int:
    """Two matrix products, 2 per multiply-add: every pixel with the w^2 of its window in C channels."""
    batch, height, width, channels = qkv_shape
    return 2 * 2 * batch * height * width * window**2 * (channels // 3)


@register_flop_formula(torch.ops.mambair_bench.window_attention_backward)
def backward_flops(grad_shape, qkv_shape, table_shape, out_shape_, softmax_shape, window, *args, **kwargs) -> int:
    """Five: the scores again, and the gradients of weights, queries, keys and values. (The kernels take seven.)"""
    return forward_flops(qkv_shape, table_shape, window) // 2 * 5
