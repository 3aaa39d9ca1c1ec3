"""Linear layers of tokens with the norm before them and what follows them: one operator.

    z = n W^T + b           n = x or LayerNorm(x)
    y = GELU(z), or z + residual + skip scale

Kernels (models/ops/linear/triton.py, linear_gradients.py) take it where products are made of TF32 or bfloat16 numbers
on a GPU; of what lies between, they keep nothing for the backward pass. In plain float32 it is PyTorch's own operations
one after the other."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from models.ops.common.dispatch import recomputed, uses_kernels
from models.ops.common.kernels import BLOCK_FEATURES, uniform_rows
from models.ops.common.operator import operator
from models.ops.common.precision import kernel_products
from models.ops.norm import layer_norm, layer_norm_forked


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: nn.LayerNorm | None = None,
    gelu: bool = False,
    residual: Tensor | None = None,
    skip: Tensor | None = None,
    scale: Tensor | None = None,
    exact: bool = False,
) -> Tensor:
    """x [..., K] -> y [..., N], as in the head of this module; weight [N, K], scale [N], residual and skip [..., N].

    y has the type of the residual, if there is one, else that of x or of autocast. exact: products as exact as
    float32's, never of bfloat16 numbers: tf32x3 where kernels multiply, else in the weight's type.
    """
    return linear_forked(x, weight, bias, norm=norm, gelu=gelu, residual=residual, skip=skip, scale=scale, exact=exact)[
        0
    ]


def linear_forked(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    others: int = 0,
    *,
    norm: nn.LayerNorm | None = None,
    gelu: bool = False,
    residual: Tensor | None = None,
    skip: Tensor | None = None,
    scale: Tensor | None = None,
    exact: bool = False,
) -> tuple[Tensor, ...]:
    """`linear` of x, then x as often as there are others that read it, at most twice (see `Operator.fork`)."""
    products = kernel_products(x) if uses_kernels(x) else None
    if products is None:
        n = x.to(weight.dtype) if exact else x
        y = (
            _plain(n, weight, bias, gelu)
            if norm is None
            else recomputed(lambda n: _plain(layer_norm(norm, n), weight, bias, gelu), n)
        )
        y = y if residual is None else residual + y
        return y if skip is None else torch.addcmul(y, skip, scale), *[x] * others
    products = "tf32x3" if exact else products
    wide, read = x.shape[-1] > BLOCK_FEATURES, [x] * others
    if norm is not None and wide:
        x, *read = layer_norm_forked(norm, x, others, dtype=_type(x, None, products))
        norm, others = None, 0
    later = gelu and wide and torch.is_grad_enabled()
    residual = None if residual is None else residual.contiguous()
    skip = None if skip is None else skip.contiguous()
    arguments = x, *_affine(norm), weight, bias, gelu and not later, residual, skip, scale, products
    y, *read = _linear.fork(others, *arguments) if others else (_linear(*arguments), *read)
    return F.gelu(y) if later else y, *read


def _affine(norm: nn.LayerNorm | None) -> tuple[Tensor | None, Tensor | None, float]:
    return (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    z = F.linear(x, weight, bias)
    return F.gelu(z) if gelu else z


def _type(x: Tensor, residual: Tensor | None, products: str) -> torch.dtype:
    if residual is not None:
        return residual.dtype
    return torch.bfloat16 if products == "bf16" else torch.float32


@operator("mambair_bench::linear")
def _linear(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    gelu: bool,
    residual: Tensor | None,
    skip: Tensor | None,
    scale: Tensor | None,
    products: str,
) -> Tensor:
    from models.ops.linear import triton as kernels

    rows = (None if t is None else t.view(-1, t.shape[-1]) for t in (residual, skip))
    y = kernels.forward(
        uniform_rows(x)[0].view(-1, x.shape[-1]),
        gamma,
        beta,
        eps,
        weight,
        bias,
        gelu,
        *rows,
        scale,
        products,
        _type(x, residual, products),
    )
    return y.view(*x.shape[:-1], -1)


@_linear.register_fake
def _(x, gamma, beta, eps, weight, bias, gelu, residual, skip, scale, products):
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=_type(x, residual, products))


@operator("mambair_bench::linear_backward")
def _linear_backward(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    gelu: bool,
    skip: Tensor | None,
    scale: Tensor | None,
    products: str,
    others: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, to which `others` are added; of weight, bias, scale, gamma and beta (the last two if there are)
    one after the other; of skip (or [0])."""
    from models.ops.linear import triton_gradients as kernels

    rows, out = uniform_rows(x)[0].view(-1, x.shape[-1]), len(weight)
    shape, dy, skip = dy.shape, dy.view(-1, out), None if skip is None else skip.view(-1, out)
    dz, dx, around = kernels.inputs(dy, rows, gamma, beta, eps, weight, bias, gelu, products, others)
    sums, dskip = kernels.weights(dz, rows, gamma, beta, eps, out, skip, scale, products, around)
    return dx.view(x.shape), sums, dx.new_empty(0) if dskip is None else dskip.view(shape)


@_linear_backward.register_fake
def _(dy, x, gamma, beta, eps, weight, bias, gelu, skip, scale, products, others):
    out, features = weight.shape
    sums = weight.new_empty(out * (features + 2) + (0 if gamma is None else 2 * features), dtype=torch.float32)
    return x.new_empty(x.shape), sums, x.new_empty(0) if skip is None else torch.empty_like(skip)


def _gradients(ctx, dy, *others):
    x, gamma, beta, weight, bias, skip, scale = ctx.saved_tensors
    dy = dy.contiguous()
    dx, sums, dskip = torch.ops.mambair_bench.linear_backward(
        dy, x, gamma, beta, ctx.eps, weight, bias, ctx.gelu, skip, scale, ctx.products, list(others)
    )
    out, features = weight.shape
    dweight, dbias, dscale, around = sums.split([out * features, out, out, 0 if gamma is None else 2 * features])
    dgamma, dbeta = (None, None) if gamma is None else around.view(2, features)
    dbias, dresidual = None if bias is None else dbias, dy if ctx.residual else None
    dskip, dscale = (None, None) if skip is None else (dskip, dscale)
    return dx, dgamma, dbeta, None, dweight.view(weight.shape), dbias, None, dresidual, dskip, dscale, None


def _context(ctx, inputs, output) -> None:
    x, gamma, beta, ctx.eps, weight, bias, ctx.gelu, residual, skip, scale, ctx.products = inputs
    ctx.residual = residual is not None
    ctx.save_for_backward(x, gamma, beta, weight, bias, skip, scale)


_linear.register_autograd(_gradients, setup_context=_context)


@register_flop_formula(torch.ops.mambair_bench.linear)
def forward_flops(x_shape, gamma_shape, beta_shape, eps, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """2 for every weight and row: the matrix product alone, as PyTorch counts its own."""
    rows = 1
    for size in x_shape[:-1]:
        rows *= size
    return 2 * rows * weight_shape[0] * weight_shape[1]


@register_flop_formula(torch.ops.mambair_bench.linear_backward)
def backward_flops(
    dy_shape, x_shape, gamma_shape, beta_shape, eps, weight_shape, *args, out_shape=None, **kwargs
) -> int:
    """Two products: the gradients of x and of weight. (With GELU the kernels take a third, z again.)"""
    return 2 * forward_flops(x_shape, gamma_shape, beta_shape, eps, weight_shape)
