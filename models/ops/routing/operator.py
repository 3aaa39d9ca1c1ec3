"""The custom operators of the kernels: `mambair_bench::route` with its backward, and `mambair_bench::by_class`."""

import torch
from torch import Tensor

from models.ops.common.operator import operator


@operator("mambair_bench::route")
def route(hidden: Tensor, weight: Tensor, bias: Tensor, keys: Tensor | None, layer: Tensor) -> tuple[Tensor, Tensor]:
    from models.ops.routing import triton as kernels

    classes = kernels.assign(hidden.contiguous(), weight, bias, keys, layer)
    return classes, hidden.new_zeros(()).expand(*classes.shape, len(weight))


@operator("mambair_bench::route_backward")
def route_backward(
    dsoft: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, keys: Tensor | None, layer: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden, and of weight and bias one after the other."""
    from models.ops.routing import triton as kernels

    return kernels.gradients(dsoft, hidden.contiguous(), weight, bias, keys, layer)


@route.register_fake
def _(hidden, weight, bias, keys, layer):
    classes = hidden.new_empty(hidden.shape[:2], dtype=torch.int64)
    return classes, hidden.new_empty(()).expand(*classes.shape, weight.shape[0])


@route_backward.register_fake
def _(dsoft, hidden, weight, bias, keys, layer):
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.numel() + bias.numel())


def _gradients(ctx, dclasses, dsoft):
    if dsoft is None:
        return (None,) * 5
    _, weight, bias, *_ = ctx.saved_tensors
    dhidden, sums = torch.ops.mambair_bench.route_backward(dsoft, *ctx.saved_tensors)
    dweight, dbias = sums.split([weight.numel(), bias.numel()])
    return dhidden, dweight.view(weight.shape), dbias, None, None


def _context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)
    ctx.set_materialize_grads(False)


route.register_autograd(_gradients, setup_context=_context)


@operator("mambair_bench::by_class")
def by_class(classes: Tensor, tokens: int) -> Tensor:
    from models.ops.routing import triton_sorting as kernels

    return kernels.order(classes.contiguous(), tokens)


@by_class.register_fake
def _(classes, tokens):
    return classes.new_empty(classes.shape)
