"""Routing: the class of every pixel, what its gradient needs, and the order of pixels by class.

    z = W hidden + b        logits of T classes
    class = argmax(z + g)   g the Gumbel noise of (key, layer, pixel, class), or 0
    soft = softmax(z + g)   what the gradient goes through (straight-through)

LogSoftmax, which the official router applies to z first, subtracts the same number from all logits of a pixel, so class
and softmax are the same without it. On a GPU z and the noise of models.ops.noise are made in registers, in the forward
pass and again in the backward one: none of it, nor soft, is ever in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.ops.common.dispatch import uses_kernels
from models.ops.common.operator import operator
from models.ops.common.precision import without_autocast
from models.ops.linear import linear
from models.ops.noise import PhiloxGumbel

NoiseSource = Callable[[int, tuple[int, int, int]], Tensor]


@dataclass(frozen=True)
class RoutingNoise:
    """What one forward pass adds to the logits of all its routers, and where they are computed.

    source: called with (layer, (B, L, T)); None: nothing is added. kernels: routing and its noise are one kernel, which
    makes the noise of keys int64 [B] or [1] (None: none) and every product as exact as float32's.
    """

    source: NoiseSource | None
    kernels: bool
    keys: Tensor | None

    @classmethod
    def of(cls, source: NoiseSource | None, weight: Tensor, batch: int) -> "RoutingNoise":
        """For a network with parameters like `weight` and a batch of so many images."""
        kernels = (source is None or isinstance(source, PhiloxGumbel)) and uses_kernels(weight)
        return cls(source, kernels, source.on(weight.device, batch) if kernels and source else None)


def choose_classes(
    router: nn.Sequential, x: Tensor, noise: RoutingNoise, index: int, layer: Tensor, learns: bool
) -> tuple[Tensor, Tensor | None]:
    """x [B, L, C] -> classes int64 [B, L] and, if the router learns, softmax(logits + noise) [B, L, T].

    router: Linear, GELU, Linear, LogSoftmax. index: number of its layer; layer: the same, int64 [] on the device of x.
    In the parameters' dtype, under autocast too: a class is a comparison of logits.
    """
    first, last = router[0], router[2]
    with without_autocast(x):
        if noise.kernels:
            hidden = linear(x, first.weight, first.bias, gelu=True, exact=True)
            return route(hidden, last.weight, last.bias, noise.keys, layer, learns)
        logits = router(x.to(first.weight.dtype))  # [B, L, T]
        if noise.source is not None:
            logits = logits + sample_noise(noise.source, index, logits)
        return logits.argmax(-1), logits.softmax(-1) if learns else None


def sample_noise(source: NoiseSource, layer: int, like: Tensor) -> Tensor:
    """Noise for logits [B, L, T], on their device and in their dtype. Raises ModelError for noise of another shape."""
    shape = tuple(like.shape)
    noise = source(layer, shape, like.device) if isinstance(source, PhiloxGumbel) else source(layer, shape)
    if tuple(noise.shape) != shape:
        raise ModelError(f"the noise source gave {list(noise.shape)} for layer {layer} in place of {list(shape)}")
    return noise.to(like)


def route(
    hidden: Tensor, weight: Tensor, bias: Tensor, keys: Tensor | None, layer: Tensor, learns: bool
) -> tuple[Tensor, Tensor | None]:
    """(classes int64 [B, L], carrier [B, L, T] or None unless `learns`) on a GPU.

    hidden [B, L, R], weight [T, R], bias [T], float32; keys int64 [B] or [1] on the same device, or None for no noise;
    layer int64 []. The carrier holds zeros, of which one is stored, and takes the gradient of `soft`.
    """
    classes, carrier = _route(hidden, weight, bias, keys, layer)
    return classes, carrier if learns else None


@operator("mambair_bench::route")
def _route(hidden: Tensor, weight: Tensor, bias: Tensor, keys: Tensor | None, layer: Tensor) -> tuple[Tensor, Tensor]:
    from models.ops.routing import triton as kernels

    classes = kernels.assign(hidden.contiguous(), weight, bias, keys, layer)
    return classes, hidden.new_zeros(()).expand(*classes.shape, len(weight))


@operator("mambair_bench::route_backward")
def _route_backward(
    dsoft: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, keys: Tensor | None, layer: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden, and of weight and bias one after the other."""
    from models.ops.routing import triton as kernels

    return kernels.gradients(dsoft, hidden.contiguous(), weight, bias, keys, layer)


@_route.register_fake
def _(hidden, weight, bias, keys, layer):
    classes = hidden.new_empty(hidden.shape[:2], dtype=torch.int64)
    return classes, hidden.new_empty(()).expand(*classes.shape, weight.shape[0])


@_route_backward.register_fake
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


_route.register_autograd(_gradients, setup_context=_context)


def by_class(classes: Tensor, tokens: int) -> Tensor:
    """Pixels int64 [..., L] by ascending class 0..tokens-1 of `classes` int64 [..., L], stable."""
    if uses_kernels(classes):
        return _by_class(classes.flatten(0, -2), tokens).view(classes.shape)
    return classes.argsort(dim=-1, stable=True)


@operator("mambair_bench::by_class")
def _by_class(classes: Tensor, tokens: int) -> Tensor:
    from models.ops.routing import sorting as kernels

    return kernels.order(classes.contiguous(), tokens)


@_by_class.register_fake
def _(classes, tokens):
    return classes.new_empty(classes.shape)
