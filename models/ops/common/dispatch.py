"""Whether kernels take a tensor, and what a GPU computes again in the backward pass instead of keeping it."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.ops.common.kernels import unavailable
from models.ops.common.precision import Settings

_kernels = True  # a plain global, which torch.compile guards
_again = False


@contextmanager
def without_kernels(on: bool = True) -> Iterator[None]:
    """Within it every operator computes as its definition says, in plain PyTorch that counters of operations see.

    on: False changes nothing. The scan is another matter: its backend is chosen by name.
    """
    global _kernels
    before = _kernels
    _kernels = before and not on
    try:
        yield
    finally:
        _kernels = before


def kernels_allowed() -> bool:
    """Whether no `without_kernels` is around."""
    return _kernels


@functools.cache
def _usable(device: torch.device) -> bool:
    reason = unavailable(device)
    if reason is not None:
        warnings.warn(f"no kernels on {device}, so plain PyTorch runs there, slower: {reason}", stacklevel=4)
    return reason is None


def has_kernels(x: Tensor) -> bool:
    """Whether the kernels take x: float32 or less, on a GPU where they can run (where they cannot, warned once)."""
    return x.is_cuda and x.dtype != torch.float64 and _usable(x.device)


def uses_kernels(x: Tensor) -> bool:
    """Whether operators of x run in kernels here."""
    return _kernels and has_kernels(x)


def computed_again() -> bool:
    """Whether `recomputed` computes again here: the value of what comes last is then not read."""
    return _again


class _AsNow:
    """Computing again: with kernels and in the precision of when it was made, as often as it is entered."""

    def __init__(self) -> None:
        self.settings, self.before = Settings.now(), []

    def __enter__(self) -> None:
        global _kernels, _again
        self.settings.__enter__()
        self.before.append((_kernels, _again))
        _kernels = _again = True

    def __exit__(self, *error: object) -> None:
        global _kernels, _again
        _kernels, _again = self.before.pop()
        self.settings.__exit__(*error)


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), of whose intermediate results a GPU keeps none for the backward pass: it computes them again.

    With kernels and in the precision of now, wherever gradients are taken. A matrix product at the end need not be
    repeated (`computed_again`): what is left is norms, activations and depthwise convolutions, which cost little next
    to their memory.
    """
    if torch.is_grad_enabled() and uses_kernels(x):
        again = {} if torch.compiler.is_compiling() else {"context_fn": lambda: (nullcontext(), _AsNow())}
        return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False, determinism_check="none", **again)
    return function(x)
