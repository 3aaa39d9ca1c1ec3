"""Operators on tokens that have a kernel of their own on a GPU (models/kernels), each beside its definition in PyTorch.

A depthwise convolution comes with what follows it, c being its result:

    gate      y = GELU(gate) c      GatedFFN
    sigmoid   y = x sigmoid(c)      conditional positional encoding
    gelu      y = x + GELU(c)       ConvFFN
    silu      y = SiLU(c)           MambaIR

The kernels accumulate in float32 and store the type of x (LayerNorm the one that it is asked for), with space between
wide rows where kernels of linear layers are next to read them (`models.kernels.spaced`). They are custom operators, so
torch.compile keeps them whole.
"""

import functools
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.custom import operator
from models.kernels import spaced, unavailable
from models.precision import Settings, kernel_products


@functools.cache
def _usable(device: torch.device) -> bool:
    reason = unavailable(device)
    if reason is not None:
        warnings.warn(f"no kernels on {device}, so plain PyTorch runs there, slower: {reason}", stacklevel=4)
    return reason is None


def has_kernels(x: Tensor) -> bool:
    """Whether the kernels take x: float32 or less, on a GPU where they can run (where they cannot, warned once)."""
    return x.is_cuda and x.dtype != torch.float64 and _usable(x.device)


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, *, fused: bool = True) -> Tensor:
    """function(x), of whose intermediate results a GPU keeps none for the backward pass: it computes them again.

    In the precision of now, also where gradients are taken outside of it. That stops at the last of them, so a matrix
    product at the end is not repeated: what is left is norms, activations and depthwise convolutions, which cost little
    beside their memory.
    """
    if fused and torch.is_grad_enabled() and has_kernels(x):
        again = {} if torch.compiler.is_compiling() else {"context_fn": lambda: (nullcontext(), Settings.now())}
        return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False, determinism_check="none", **again)
    return function(x)


# --- depthwise convolution and what follows it -------------------------------------------------------------------


def convolve(conv: nn.Conv2d, x: Tensor, then: str, gate: Tensor | None = None, *, fused: bool = True) -> Tensor:
    """x [B, H, W, C] through a depthwise convolution (odd square kernel, same size) and what `then` names."""
    if fused and has_kernels(x) and conv.dilation == (1, 1):
        if torch.is_autocast_enabled(x.device.type):  # as convolutions do
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return _depthwise(x, conv.weight, conv.bias, gate, then, kernel_products(x) is not None)
    c = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    if then == "gate":
        return F.gelu(gate) * c
    if then == "sigmoid":
        return x * c.sigmoid()
    return x + F.gelu(c) if then == "gelu" else F.silu(c)


@operator("mambair_bench::depthwise")
def _depthwise(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, then: str, space: bool) -> Tensor:
    from models.kernels import depthwise as kernels

    return kernels.forward(x, weight, bias, gate, then, space)


@operator("mambair_bench::depthwise_backward")
def _depthwise_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, then: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of weight and bias one after the other, and of gate."""
    from models.kernels import depthwise as kernels

    return kernels.backward(dy, x, weight, bias, gate, then)


@_depthwise.register_fake
def _(x, weight, bias, gate, then, space):
    return spaced(x, x.dtype, space)


@_depthwise_backward.register_fake
def _(dy, x, weight, bias, gate, then):
    dgate = x.new_empty(0) if gate is None else torch.empty_like(gate, memory_format=torch.contiguous_format)
    return x.new_empty(x.shape), weight.new_empty(weight.numel() + bias.numel(), dtype=torch.float32), dgate


def _depthwise_gradients(ctx, dy):
    x, weight, bias, gate = ctx.saved_tensors
    dx, sums, dgate = torch.ops.mambair_bench.depthwise_backward(dy, x, weight, bias, gate, ctx.then)
    dweight, dbias = sums.to(weight.dtype).split([weight.numel(), bias.numel()])
    return dx, dweight.view(weight.shape), dbias, None if gate is None else dgate, None, None


def _depthwise_context(ctx, inputs, output) -> None:
    *tensors, ctx.then, _ = inputs
    ctx.save_for_backward(*tensors)


_depthwise.register_autograd(_depthwise_gradients, setup_context=_depthwise_context)


# --- layer norm --------------------------------------------------------------------------------------------------


def layer_norm(
    norm: nn.LayerNorm,
    x: Tensor,
    *,
    gelu: bool = False,
    dtype: torch.dtype | None = None,
    space: bool = False,
    fused: bool = True,
) -> Tensor:
    """LayerNorm of x [..., C], or of GELU(x), computed in float32; kernels give it the type of x, under autocast too.

    dtype: another type for the result. space: between its wide rows, for a kernel that multiplies them. A compiler
    fuses PyTorch's own with its surroundings, so it is left to that.
    """
    if fused and has_kernels(x) and not torch.compiler.is_compiling():
        return _layer_norm(x, norm.weight, norm.bias, norm.eps, gelu, dtype or x.dtype, space)
    y = norm(F.gelu(x) if gelu else x)
    return y if dtype is None else y.to(dtype)


def forked_norm(
    norm: nn.LayerNorm, x: Tensor, others: int, *, dtype: torch.dtype | None = None, fused: bool = True
) -> tuple[Tensor, ...]:
    """`layer_norm` of x for linear layers, then x as often as there are others that read it (see `Operator.fork`)."""
    if fused and has_kernels(x) and not torch.compiler.is_compiling():
        space = kernel_products(x) is not None
        return _layer_norm.fork(others, x, norm.weight, norm.bias, norm.eps, False, dtype or x.dtype, space)
    return layer_norm(norm, x, dtype=dtype, fused=fused), *[x] * others


@operator("mambair_bench::layer_norm")
def _layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool, dtype: torch.dtype, space: bool
) -> Tensor:
    from models.kernels import norm as kernels

    return kernels.forward(x, weight, bias, eps, gelu, dtype, space)


@operator("mambair_bench::layer_norm_backward")
def _layer_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, gelu: bool, others: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Gradients of x, to which `others` are added, and of weight and bias one after the other."""
    from models.kernels import norm as kernels

    return kernels.backward(dy, x, weight, eps, gelu, others)


@_layer_norm.register_fake
def _(x, weight, bias, eps, gelu, dtype, space):
    return spaced(x, dtype, space)


@_layer_norm_backward.register_fake
def _(dy, x, weight, eps, gelu, others):
    return x.new_empty(x.shape), weight.new_empty(2 * len(weight), dtype=torch.float32)


def _layer_norm_gradients(ctx, dy, *others):
    x, weight = ctx.saved_tensors
    dx, sums = torch.ops.mambair_bench.layer_norm_backward(dy, x, weight, ctx.eps, ctx.gelu, list(others))
    return dx, *sums.to(weight.dtype).view(2, -1), None, None, None, None


def _layer_norm_context(ctx, inputs, output) -> None:
    x, weight, _, ctx.eps, ctx.gelu, *_ = inputs
    ctx.save_for_backward(x, weight)


_layer_norm.register_autograd(_layer_norm_gradients, setup_context=_layer_norm_context)
