"""Tokens as values that layers read: what fuses several operations into one operator, and which gradients it adds.

On a GPU a layer of `Tokens` computes nothing when it is called. It waits for what follows, so that one operator takes
all of it: the norm of a linear layer's input, GELU after it, the residual and the scaled skip that are added to it.

    x + fc2(recomputed(mix, gelu(fc1(norm(x))))) + scaled(skip, scale)     is two linear layers and what `mix` does

Tokens that wait are computed by the first who reads them, once. Where a layer reads tokens in training, later readers
get views of them whose gradients that layer's backward adds (`Operator.fork`), where PyTorch would add them in a pass
over memory of its own. Elsewhere (a CPU, float64, `without_kernels`) every layer computes when it is called.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ops.common import dispatch
from models.ops.conv3x3 import convolution
from models.ops.linear import linear_forked
from models.ops.norm import layer_norm_forked

OTHERS = 2  # readers beside a layer whose gradients its backward adds; more are left to PyTorch


class Tokens:
    """Values [..., C], read by any number of readers in turn.

    waits: whether layers that read them wait for what follows.
    """

    def __init__(self, values: Tensor) -> None:
        self.values: Tensor | None = values
        self.waits = dispatch.uses_kernels(values)
        self.views: list[Tensor] = []
        self.forked = False

    def read(self) -> Tensor:
        """The values, for one more reader."""
        if self.values is None:
            self.values = self.compute()
        return self.views.pop(0) if self.views else self.values

    def fork(self, read: Callable[[Tensor, int], tuple[Tensor, ...]]) -> Tensor:
        """What `read`, called with the values and how many other readers there may be, makes of them: a layer."""
        x = self.read()
        if self.forked:
            return read(x, 0)[0]
        self.forked = True
        y, *self.views = read(x, OTHERS)
        return y

    def compute(self) -> Tensor:
        raise AssertionError("these values are there")

    def __add__(self, other: "Tokens | Scaled") -> "Tokens":
        return other.added_to(self)

    def added_to(self, x: "Tokens") -> "Tokens":
        """x + self."""
        return Tokens(x.read() + self.read())

    def plus_scaled(self, skip: "Tokens", scale: Tensor) -> "Tokens":
        """self + skip scale."""
        return Tokens(torch.addcmul(self.read(), skip.read(), scale))


class Scaled:
    """tokens * scale [C], for tokens to add."""

    def __init__(self, tokens: Tokens, scale: Tensor) -> None:
        self.tokens, self.scale = tokens, scale

    def added_to(self, x: Tokens) -> Tokens:
        return x.plus_scaled(self.tokens, self.scale)


class Waiting(Tokens):
    """Tokens that are computed when they are read, of `source`, which is let go then."""

    def __init__(self, source: Tokens) -> None:
        self.source = source
        self.values, self.waits, self.views, self.forked = None, True, [], False


class Normed(Waiting):
    """LayerNorm of tokens."""

    def __init__(self, source: Tokens, norm: nn.LayerNorm) -> None:
        super().__init__(source)
        self.norm = norm

    def compute(self) -> Tensor:
        source, self.source = self.source, None
        return source.fork(lambda x, others: layer_norm_forked(self.norm, x, others))


class Recomputed(Waiting):
    """function(tokens), computed again in the backward pass, where nothing in it is kept."""

    def __init__(self, source: Tokens, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(Tokens(source.read()))
        self.function = function

    def compute(self) -> Tensor:
        source, self.source = self.source, None
        return dispatch.recomputed(self.function, source.read())


class Projected(Waiting):
    """A linear layer of tokens: GELU of it, or the residual and the scaled skip added to it."""

    def __init__(
        self,
        source: Tokens,
        weight: Tensor,
        bias: Tensor | None,
        gelu: bool = False,
        residual: Tokens | None = None,
        skip: Tokens | None = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__(source)
        self.weight, self.bias, self.gelu = weight, bias, gelu
        self.residual, self.skip, self.scale = residual, skip, scale

    def added_to(self, x: Tokens) -> Tokens:
        if self.values is not None or self.gelu or self.residual is not None:
            return super().added_to(x)
        return Projected(self.source, self.weight, self.bias, residual=x)

    def plus_scaled(self, skip: Tokens, scale: Tensor) -> Tokens:
        if self.values is not None or self.residual is None or self.skip is not None:
            return super().plus_scaled(skip, scale)
        return Projected(self.source, self.weight, self.bias, residual=self.residual, skip=skip, scale=scale)

    def compute(self) -> Tensor:
        source, self.source = self.source, None
        residual, skip = (None if t is None else t.read() for t in (self.residual, self.skip))
        self.residual = self.skip = None
        after = {"gelu": self.gelu, "residual": residual, "skip": skip, "scale": self.scale}
        if isinstance(source, Recomputed) and source.values is None:
            function = source.function
            return dispatch.recomputed(
                lambda x: linear_forked(function(x), self.weight, self.bias, **after)[0], source.source.read()
            )
        norm = None
        if isinstance(source, Normed) and source.values is None:
            source, norm = source.source, source.norm
        return source.fork(lambda x, others: linear_forked(x, self.weight, self.bias, others, norm=norm, **after))


class Convolved(Waiting):
    """A convolution of tokens as an image, or a sequence of such and other modules, and the residual added to it."""

    def __init__(self, source: Tokens, module: nn.Module, residual: Tokens | None = None) -> None:
        super().__init__(source)
        self.module, self.residual = module, residual

    def added_to(self, x: Tokens) -> Tokens:
        if self.values is not None or self.residual is not None:
            return super().added_to(x)
        return Convolved(self.source, self.module, x)

    def compute(self) -> Tensor:
        source, residual, self.source, self.residual = self.source, self.residual, None, None
        return convolution(self.module, source.read(), None if residual is None else residual.read())


def linear(x: Tokens, weight: Tensor, bias: Tensor | None = None) -> Tokens:
    """x W^T + b, x [..., K], weight [N, K]: [..., N]."""
    return Projected(x, weight, bias) if x.waits else Tokens(F.linear(x.read(), weight, bias))


def scaled(x: Tokens, scale: Tensor) -> Scaled:
    """x * scale [C], for tokens to add. (torch.compile knows no `*` of an object and a tensor.)"""
    return Scaled(x, scale)


def gelu(x: Tokens) -> Tokens:
    if isinstance(x, Projected) and x.values is None and x.residual is None:
        return Projected(x.source, x.weight, x.bias, gelu=True)
    return Tokens(F.gelu(x.read()))


def recomputed(function: Callable[[Tensor], Tensor], x: Tokens) -> Tokens:
    """function(x), of whose intermediate results a GPU keeps none for the backward pass: it computes them again."""
    return Recomputed(x, function) if x.waits else Tokens(function(x.read()))
