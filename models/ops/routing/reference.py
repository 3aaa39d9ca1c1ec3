"""Routing as it is defined, in plain PyTorch."""

from collections.abc import Callable

from torch import Tensor, nn


def choose_classes(
    router: nn.Module, x: Tensor, noise: Callable[[Tensor], Tensor] | None, learns: bool
) -> tuple[Tensor, Tensor | None]:
    """x [B, L, C] -> classes int64 [B, L] and, if the router learns, softmax(logits + noise) [B, L, T].

    noise: gives what is added to logits [B, L, T], in their shape and type; None adds nothing.
    """
    logits = router(x)  # [B, L, T]
    if noise is not None:
        logits = logits + noise(logits)
    return logits.argmax(-1), logits.softmax(-1) if learns else None


def by_class(classes: Tensor) -> Tensor:
    """Pixels int64 [..., L] by ascending class of `classes` int64 [..., L], stable."""
    return classes.argsort(dim=-1, stable=True)
