"""Routing: the class of every pixel, what its gradient needs, and the order of pixels by class.

    z = W hidden + b        logits of T classes
    class = argmax(z + g)   g the Gumbel noise of (key, layer, pixel, class), or 0
    soft = softmax(z + g)   what the gradient goes through (straight-through)

LogSoftmax, which the official router applies to z first, subtracts the same number from all logits of a pixel, so class
and softmax are the same without it. On a GPU z and the noise of models.ops.noise are made in registers, in the forward
pass and again in the backward one: none of it, nor soft, is ever in memory.

reference.py is the definition; triton.py and triton_sorting.py have the kernels, operator.py the custom operators
around them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from models.errors import ModelError
from models.ops.common.dispatch import uses_kernels
from models.ops.common.precision import without_autocast
from models.ops.linear import linear
from models.ops.noise import PhiloxGumbel
from models.ops.routing import operator, reference

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
        sample = None if noise.source is None else partial(sample_noise, noise.source, index)
        return reference.choose_classes(router, x.to(first.weight.dtype), sample, learns)


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
    classes, carrier = operator.route(hidden, weight, bias, keys, layer)
    return classes, carrier if learns else None


def by_class(classes: Tensor, tokens: int) -> Tensor:
    """Pixels int64 [..., L] by ascending class 0..tokens-1 of `classes` int64 [..., L], stable."""
    if uses_kernels(classes):
        return operator.by_class(classes.flatten(0, -2), tokens).view(classes.shape)
    return reference.by_class(classes)
