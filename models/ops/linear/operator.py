"""`mambair_bench::linear`, the custom operator of the kernels, its backward and the operations of both."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from models.ops.common.kernels import uniform_rows
from models.ops.common.operator import operator


def result_type(x: Tensor, residual: Tensor | None, products: str) -> torch.dtype:
    """The type of y: the residual's, if there is one, else that of the products."""
    if residual is not None:
        return residual.dtype
    return torch.bfloat16 if products == "bf16" else torch.float32


@operator("mambair_bench::linear")
def linear(
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
    unread: bool,
) -> Tensor:
    """unread: y is not computed, for where only its backward is wanted."""
    if unread:
        return x.new_empty((*x.shape[:-1], len(weight)), dtype=result_type(x, residual, products))
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
        result_type(x, residual, products),
    )
    return y.view(*x.shape[:-1], -1)


@linear.register_fake
def _(x, gamma, beta, eps, weight, bias, gelu, residual, skip, scale, products, unread):
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=result_type(x, residual, products))


@operator("mambair_bench::linear_backward")
def linear_backward(
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
    from models.ops.linear import triton_narrow as narrow

    rows, out = uniform_rows(x)[0].view(-1, x.shape[-1]), len(weight)
    shape, dy, skip = dy.shape, dy.view(-1, out), None if skip is None else skip.view(-1, out)
    layer = rows, gamma, beta, eps
    if cut := narrow.tile(x.shape[-1], out, products):
        dx, sums, dskip = narrow.gradients(dy, *layer, weight, bias, gelu, skip, scale, products, others, cut)
    else:
        dz, dx, around = kernels.inputs(dy, *layer, weight, bias, gelu, products, others)
        sums, dskip = kernels.weights(dz, *layer, out, skip, scale, products, around)
    return dx.view(x.shape), sums, dx.new_empty(0) if dskip is None else dskip.view(shape)


@linear_backward.register_fake
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
    return dx, dgamma, dbeta, None, dweight.view(weight.shape), dbias, None, dresidual, dskip, dscale, None, None


def _context(ctx, inputs, output) -> None:
    x, gamma, beta, ctx.eps, weight, bias, ctx.gelu, residual, skip, scale, ctx.products, _ = inputs
    ctx.residual = residual is not None
    ctx.save_for_backward(x, gamma, beta, weight, bias, skip, scale)


linear.register_autograd(_gradients, setup_context=_context)


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
