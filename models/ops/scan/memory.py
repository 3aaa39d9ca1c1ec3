"""Scans whose state starts anew after every `memory` steps: what tells remembering apart from gating.

    h_i = exp(x_p A) h_{i-1} + x_p B_p u_p   as in the package's head, but h_{i-1} = 0 where memory divides i - 1

With memory 1 nothing is remembered, and y_p = <C_p + prompt_i, x_p B_p u_p> + D u_p is a product of what one pixel has.
A longer memory folds the steps of every direction into sequences of that many, side by side as images of a batch are.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.common.precision import without_autocast
from models.ops.scan.permutation import inverse, permute_pixels


def forgetful(u, delta, A, B, C, D, delta_bias, order, prompts, memory: int, scan: Callable[..., Tensor]) -> Tensor:
    """y [B, K, L, E] in pixel order; arguments as in `attentive_scan`, `scan` being that.

    prompts: [B, K, L, N] of steps, with their gradient, or None. memory: 1 to L - 1.
    """
    back = None if order is None else inverse(order)
    if prompts is not None:
        C = C + (prompts if order is None else permute_pixels(prompts, back, order))
    if memory == 1:
        return _without_memory(u, delta, B, C, D, delta_bias)
    rows = u.unsqueeze(1).expand(-1, delta.shape[1], -1, -1), delta, B, C
    folded = [_folded(x if order is None else permute_pixels(x, order, back), memory) for x in rows]
    ys = []
    for k in range(delta.shape[1]):  # u is of all directions, and in the steps of one only here
        u_k, *others = (x[:, k].flatten(0, 1) for x in folded)  # [B S, memory, .]
        delta_k, B_k, C_k = (x.unsqueeze(1) for x in others)
        one = slice(k, k + 1)
        y = scan(u_k, delta_k, A[one], B_k, C_k, D[one], delta_bias[one])  # [B S, 1, memory, E]
        ys.append(y.reshape(u.shape[0], -1, u.shape[2])[:, : u.shape[1]])
    y = torch.stack(ys, 1)  # [B, K, L, E] of steps
    return y if order is None else permute_pixels(y, back, order)


def _folded(x: Tensor, memory: int) -> Tensor:
    """x [B, K, L, F] -> [B, K, S, memory, F], zeros behind the last step."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % memory)).unflatten(2, (-1, memory))


def _without_memory(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """y [B, K, L, E], computed in float64 for float64 u and in float32 else."""
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    with without_autocast(u):
        wide, D, bias = (x.to(dtype) for x in (u, D, delta_bias))
        gain = (B.to(dtype) * C.to(dtype)).sum(-1, keepdim=True)  # [B, K, L, 1]
        step = F.softplus(delta.to(dtype) + bias.unsqueeze(1))
        return (wide.unsqueeze(1) * torch.addcmul(D.unsqueeze(1), step, gain)).to(u.dtype)
