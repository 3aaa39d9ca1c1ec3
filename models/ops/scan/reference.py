"""The scan as it is defined: a plain loop over the steps, in any float type: slow, the oracle of the others."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.scan.permutation import to_pixels, to_steps

DEVICES = None  # any
TYPES = ()


def unavailable() -> None:
    """Always usable."""


def refuses(u: Tensor, A: Tensor) -> None:
    """Takes all tensors."""


def saved_shape(batch: int, directions: int, length: int, channels: int, states: int) -> tuple[int, ...]:
    """Nothing is kept for the backward pass: it computes the states again."""
    return (0,)


def _steps(u, delta, B, C, delta_bias, order, table, classes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u, delta + bias, B and C + prompt in step order: [B, K, L, E] twice, [B, K, L, N] twice."""
    C = to_steps(C, order)
    C = C if table is None else C + table[classes]
    u = to_steps(u.unsqueeze(1).expand_as(delta), order)
    return u, to_steps(delta + delta_bias.unsqueeze(1), order), to_steps(B, order), C


def forward(u, delta, A, B, C, D, delta_bias, order, table, classes, save) -> tuple[Tensor, Tensor]:
    """y [B, K, L, E] in pixel order; arguments as in `attentive_scan`, `classes` [B, K, L] in step order."""
    us, raw, Bs, Cs = _steps(u, delta, B, C, delta_bias, order, table, classes)
    x = F.softplus(raw)
    h = u.new_zeros(*x.shape[:2], *A.shape[1:])  # [B, K, E, N]
    ys = []
    for i in range(x.shape[2]):
        x_i = x[:, :, i, :, None]  # [B, K, E, 1]
        h = torch.exp(x_i * A) * h + x_i * us[:, :, i, :, None] * Bs[:, :, i, None, :]
        ys.append((h * Cs[:, :, i, None, :]).sum(3) + D * us[:, :, i])
    return to_pixels(torch.stack(ys, 2), order).contiguous(), u.new_empty(0)


def backward(grad_y, saved, u, delta, A, B, C, D, delta_bias, order, table, classes) -> tuple[Tensor, ...]:
    """Gradients of (u, delta, A, B, C, D, delta_bias) in the shapes of those; g is the gradient of the state h_i."""
    us, raw, Bs, Cs = _steps(u, delta, B, C, delta_bias, order, table, classes)
    dys, x = to_steps(grad_y, order), F.softplus(raw)
    length = x.shape[2]
    states = [u.new_zeros(*x.shape[:2], *A.shape[1:])]  # h_0 ... h_L, each [B, K, E, N]
    for i in range(length):
        x_i = x[:, :, i, :, None]
        states.append(torch.exp(x_i * A) * states[-1] + x_i * us[:, :, i, :, None] * Bs[:, :, i, None, :])

    g, dA = torch.zeros_like(states[0]), torch.zeros_like(states[0])
    dus, dxs, dBs, dCs = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (us, x, Bs, Cs))
    for i in reversed(range(length)):
        x_i, u_i, dy_i = x[:, :, i], us[:, :, i], dys[:, :, i]  # [B, K, E]
        decay = torch.exp(x_i[..., None] * A)
        g = g + dy_i[..., None] * Cs[:, :, i, None, :]
        dCs[:, :, i] = (dy_i[..., None] * states[i + 1]).sum(2)
        dBs[:, :, i] = (g * (x_i * u_i)[..., None]).sum(2)
        d_input = (g * Bs[:, :, i, None, :]).sum(3)  # gradient of x u
        d_exponent = g * decay * states[i]  # gradient of x A
        dA += d_exponent * x_i[..., None]
        dus[:, :, i] = d_input * x_i + D * dy_i
        dxs[:, :, i] = d_input * u_i + (d_exponent * A).sum(3)
        g = g * decay
    draw = dxs * torch.where(raw > 20, 1.0, torch.sigmoid(raw))  # softplus is linear above 20, as in PyTorch
    du, ddelta, dB, dC = (to_pixels(t, order).contiguous() for t in (dus, draw, dBs, dCs))
    return du.sum(1), ddelta, dA.sum(0), dB, dC, (dys * us).sum((0, 2)), draw.sum((0, 2))
