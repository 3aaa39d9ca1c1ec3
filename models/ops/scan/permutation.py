"""Between pixel order and the order in which a scan visits pixels. Every backward is a gather: no atomics anywhere."""

import torch
from torch import Tensor


def inverse(order: Tensor) -> Tensor:
    """The inverse of permutations int64 [B, K, L]: the step at which a pixel is visited."""
    steps = torch.arange(order.shape[2], device=order.device).expand_as(order)
    return torch.empty_like(order, memory_format=torch.contiguous_format).scatter_(2, order, steps)


def to_steps(x: Tensor, order: Tensor | None) -> Tensor:
    """x [B, K, L, F] of pixels -> of steps, for order int64 [B, K, L] (None: identity)."""
    return x if order is None else x.gather(2, order.unsqueeze(3).expand(-1, -1, -1, x.shape[3]))


def to_pixels(x: Tensor, order: Tensor | None) -> Tensor:
    """x [B, K, L, F] of steps -> of pixels."""
    return x if order is None else to_steps(x, inverse(order))


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return to_steps(x, index)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return to_steps(grad, ctx.saved_tensors[0]), None, None


def permute_pixels(x: Tensor, index: Tensor, back: Tensor) -> Tensor:
    """y[..., i, :] = x[..., index[i], :] for x [B, K, L, F], a permutation int64 [B, K, L] and its inverse `back`.

    The backward is a gather by the inverse; that of a plain gather adds with atomics.
    """
    return _Permute.apply(x, index, back)


def column_major(height: int, width: int, device: torch.device) -> Tensor:
    """int64 [H W]: pixels (raster numbers) in the order of columns, each from top to bottom."""
    return torch.arange(height * width, device=device).view(height, width).t().flatten()
