"""Tokens as values that layers read: what fuses several operations into one operator, and which gradients it adds.

On a GPU a layer of `Tokens` computes nothing when it is called. It waits for what follows, so that one operator takes
all of it: the norm of a linear layer's input, GELU after it, the residual and the scaled skip that are added to it.

    x + fc2(recomputed(mix, gelu(fc1(norm(x))))) + scaled(skip, scale)     is two linear layers and what `mix` does

Tokens that wait are computed by the first who reads their values, once; a linear layer that takes a norm in computes
that for itself. Where a layer reads tokens in training, later readers get views of them whose gradients that layer's
backward adds (`Operator.fork`), where PyTorch would add them in a pass over memory of its own. Elsewhere (a CPU,
float64, `without_kernels`) every layer computes when it is called.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ops.common import dispatch
from models.ops.common.dispatch import uses_kernels
from models.ops.conv3x3 import convolution
from models.ops.linear import linear as linear_layer
from models.ops.linear import linear_forked
from models.ops.norm import layer_norm_forked

OTHERS = 2  # readers besides a layer whose gradients its backward adds; more are left to PyTorch


class Tokens:
    """Values [..., C], read by any number of readers in turn.

    waits: whether layers that read them wait for what follows; by default, where operators of `values` run in kernels.
    """

    values: Tensor | None
    views: tuple[Tensor, ...] = ()  # for readers after a layer that forked
    forked = False

    def __init__(self, values: Tensor, waits: bool | None = None) -> None:
        self.values = values
        self.waits = uses_kernels(values) if waits is None else waits

    def read(self) -> Tensor:
        """The values, for one more reader."""
        if self.views:
            view, self.views = self.views[0], self.views[1:]  # torch.compile of PyTorch 2.11 knows no other way
            return view
        if self.values is None:
            self.values = self.compute()
        return self.values

    def others(self) -> int:
        """For how many other readers a layer that reads these tokens forks: only the first does, and in training."""
        if self.forked or not torch.is_grad_enabled():
            return 0
        self.forked = True
        return OTHERS

    def compute(self) -> Tensor:
        raise AssertionError("these values are there")

    def __add__(self, other: "Tokens | Scaled") -> "Tokens":
        return other.added_to(self)

    def added_to(self, x: "Tokens") -> "Tokens":
        """x + self."""
        return Tokens(x.read() + self.read(), self.waits)

    def plus_scaled(self, skip: "Tokens", scale: Tensor) -> "Tokens":
        """self + skip scale."""
        return Tokens(torch.addcmul(self.read(), skip.read(), scale), self.waits)


class Scaled:
    """Tokens times a number for every channel, for tokens to add."""

    def __init__(self, tokens: Tokens, scale: Tensor) -> None:
        self.tokens, self.scale = tokens, scale

    def added_to(self, x: Tokens) -> Tokens:
        return x.plus_scaled(self.tokens, self.scale)


class Normed(Tokens):
    """LayerNorm of tokens, waiting."""

    values, waits = None, True

    def __init__(self, source: Tokens, norm: nn.LayerNorm) -> None:
        self.source, self.norm = source, norm

    def compute(self) -> Tensor:
        source, self.source = self.source, None
        x = source.read()
        y, *views = layer_norm_forked(self.norm, x, source.others())
        source.views = tuple(views)
        return y


class Recomputed(Tokens):
    """function(x), waiting; computed again in the backward pass, for which nothing in it is kept."""

    values, waits = None, True

    def __init__(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> None:
        self.x, self.function = x, function

    def compute(self) -> Tensor:
        x, self.x = self.x, None
        return dispatch.recomputed(self.function, x)


class Projected(Tokens):
    """A linear layer of tokens, waiting: GELU of it, or the residual and the scaled skip added to it."""

    values, waits = None, True
    gelu = False
    residual = skip = scale = None

    def __init__(self, source: Tokens, weight: Tensor, bias: Tensor | None) -> None:
        self.source, self.weight, self.bias = source, weight, bias

    def added_to(self, x: Tokens) -> Tokens:
        if self.values is not None or self.gelu or self.residual is not None:
            return super().added_to(x)
        y = Projected(self.source, self.weight, self.bias)
        y.residual = x
        return y

    def plus_scaled(self, skip: Tokens, scale: Tensor) -> Tokens:
        if self.values is not None or self.residual is None or self.skip is not None:
            return super().plus_scaled(skip, scale)
        y = Projected(self.source, self.weight, self.bias)
        y.residual, y.skip, y.scale = self.residual, skip, scale
        return y

    def compute(self) -> Tensor:
        source, norm = self.source, None
        residual = None if self.residual is None else self.residual.read()
        skip = None if self.skip is None else self.skip.read()
        self.source = self.residual = self.skip = None  # let go of
        if source.values is None:
            if isinstance(source, Recomputed):
                weight, bias, scale, function = self.weight, self.bias, self.scale, source.function

                def whole(x: Tensor) -> Tensor:
                    after = {"residual": residual, "skip": skip, "scale": scale}
                    return linear_layer(function(x), weight, bias, **after, unread=dispatch.computed_again())

                return dispatch.recomputed(whole, source.x)
            if isinstance(source, Normed):
                source, norm = source.source, source.norm
        x, others = source.read(), source.others()
        y, *views = linear_forked(
            x, self.weight, self.bias, others, norm=norm, gelu=self.gelu, residual=residual, skip=skip, scale=self.scale
        )
        if others:
            source.views = tuple(views)
        return y


class Convolved(Tokens):
    """A module of images, waiting: convolutions of tokens as an image; the residual added to it."""

    values, waits = None, True
    residual = None

    def __init__(self, source: Tokens, module: nn.Module) -> None:
        self.source, self.module = source, module

    def added_to(self, x: Tokens) -> Tokens:
        if self.values is not None or self.residual is not None:
            return super().added_to(x)
        y = Convolved(self.source, self.module)
        y.residual = x
        return y

    def compute(self) -> Tensor:
        source, residual, self.source, self.residual = self.source, self.residual, None, None
        return convolution(self.module, source.read(), None if residual is None else residual.read())


def linear(x: Tokens, weight: Tensor, bias: Tensor | None = None) -> Tokens:
    """x W^T + b, x [..., K], weight [N, K]: [..., N]."""
    return Projected(x, weight, bias) if x.waits else Tokens(F.linear(x.read(), weight, bias), False)


def scaled(x: Tokens, scale: Tensor) -> Scaled:
    """x * scale [C], for tokens to add. (torch.compile knows no `*` of an object and a tensor.)"""
    return Scaled(x, scale)


def gelu(x: Tokens) -> Tokens:
    if isinstance(x, Projected) and x.values is None and x.residual is None:
        y = Projected(x.source, x.weight, x.bias)
        y.gelu = True
        return y
    return Tokens(F.gelu(x.read()), x.waits)


def recomputed(function: Callable[[Tensor], Tensor], x: Tokens) -> Tokens:
    """function(x), of whose intermediate results a GPU keeps none for the backward pass: it computes them again."""
    return Recomputed(x.read(), function) if x.waits else Tokens(function(x.read()), False)
