"""The scan in pure PyTorch: chunks of CHUNK steps, all chunks side by side.

Three passes: every chunk is scanned from a zero state; the states at the borders are carried on from chunk to chunk;
every chunk is scanned again from its true state. Decays only ever multiply (a chunk's whole decay is exp of a sum), so
nothing overflows and nothing is divided; a cumulative sum of logarithms would lose everything at large delta.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.scan.permutation import to_pixels, to_steps

DEVICES = None  # any
TYPES = ()
CHUNK = 64
REPLAY_BYTES = 128 * 2**20  # states that the backward pass holds at a time


def unavailable() -> None:
    """Always usable."""


def refuses(u: Tensor, A: Tensor) -> None:
    """Takes all tensors."""


def saved_shape(batch: int, directions: int, length: int, channels: int, states: int) -> tuple[int, ...]:
    """The state at the start of every chunk: [B, K, S, E, N]."""
    return (batch, directions, (length + CHUNK - 1) // CHUNK, channels, states)


def _chunks(x: Tensor) -> Tensor:
    """x [B, K, L, F] -> [B, K, S, CHUNK, F], zeros at the end: a step with x = 0 keeps the state."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % CHUNK)).unflatten(2, (-1, CHUNK))


def _unchunk(x: Tensor, length: int, order: Tensor | None) -> Tensor:
    return to_pixels(x.flatten(2, 3)[:, :, :length], order).contiguous()


def _sequences(u, delta, B, C, delta_bias, order, table, classes) -> tuple[Tensor, ...]:
    """Chunks in step order [B, K, S, CHUNK, .] of u, softplus(delta + bias), B, C + prompt; delta + bias, whole."""
    raw = to_steps(delta + delta_bias.unsqueeze(1), order)
    C = to_steps(C, order)
    C = C if table is None else C + table[classes]
    us = to_steps(u.unsqueeze(1).expand_as(delta), order)
    return _chunks(us), _chunks(F.softplus(raw)), _chunks(to_steps(B, order)), _chunks(C), raw


def _step(h: Tensor, x: Tensor, xu: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """h [..., E, N] one step further; x, xu [..., E], A [K, 1, E, N], B [..., N]."""
    return torch.addcmul(xu.unsqueeze(-1) * B.unsqueeze(-2), torch.exp(x.unsqueeze(-1) * A), h)


def _carry(first: Tensor, decay: Tensor, local: Tensor, reverse: bool = False) -> Tensor:
    """States entering the chunks [B, K, S, E, N] when a chunk maps an entering state s to decay * s + local."""
    entering = torch.empty_like(local)
    chunks = range(local.shape[2])
    state = first
    for s in reversed(chunks) if reverse else chunks:
        entering[:, :, s] = state
        state = torch.addcmul(local[:, :, s], decay[:, :, s], state)
    return entering


def forward(u, delta, A, B, C, D, delta_bias, order, table, classes, save) -> tuple[Tensor, Tensor]:
    """y [B, K, L, E] in pixel order; arguments as in `attentive_scan`, `classes` [B, K, L] in step order."""
    us, x, Bs, Cs, _ = _sequences(u, delta, B, C, delta_bias, order, table, classes)
    A, xu = A.unsqueeze(1), x * us  # [K, 1, E, N], [B, K, S, CHUNK, E]
    zero = u.new_zeros(*x.shape[:3], *A.shape[2:])
    h = zero
    for j in range(CHUNK):
        h = _step(h, x[:, :, :, j], xu[:, :, :, j], A, Bs[:, :, :, j])
    entering = _carry(zero[:, :, 0], torch.exp(x.sum(3).unsqueeze(-1) * A), h)
    h, y = entering, torch.empty_like(x)
    for j in range(CHUNK):
        h = _step(h, x[:, :, :, j], xu[:, :, :, j], A, Bs[:, :, :, j])
        y[:, :, :, j] = (h * Cs[:, :, :, j].unsqueeze(-2)).sum(-1)
    y += D[:, None, None] * us
    return _unchunk(y, u.shape[1], order), entering if save else u.new_empty(0)


def backward(grad_y, saved, u, delta, A, B, C, D, delta_bias, order, table, classes) -> tuple[Tensor, ...]:
    """Gradients of (u, delta, A, B, C, D, delta_bias) in the shapes of those; g is the gradient of the state."""
    us, x, Bs, Cs, raw = _sequences(u, delta, B, C, delta_bias, order, table, classes)
    dys, length = _chunks(to_steps(grad_y, order)), u.shape[1]
    A, xu = A.unsqueeze(1), x * us
    dA = torch.zeros_like(A)
    g = torch.zeros_like(saved)
    for j in reversed(range(CHUNK)):
        g = _step_back(g, dys[:, :, :, j], Cs[:, :, :, j], torch.exp(x[:, :, :, j].unsqueeze(-1) * A))[1]
    leaving = _carry(torch.zeros_like(g[:, :, 0]), torch.exp(x.sum(3).unsqueeze(-1) * A), g, reverse=True)

    dus, dxs, dBs, dCs = (torch.empty_like(t) for t in (us, x, Bs, Cs))
    bytes_per_chunk = (CHUNK + 1) * saved[:, :, 0].numel() * saved.element_size()
    group = max(1, REPLAY_BYTES // bytes_per_chunk)
    for start in range(0, saved.shape[2], group):
        part = slice(start, start + group)
        states = [saved[:, :, part]]
        for j in range(CHUNK):
            states.append(_step(states[-1], x[:, :, part, j], xu[:, :, part, j], A, Bs[:, :, part, j]))
        g = leaving[:, :, part]
        for j in reversed(range(CHUNK)):
            x_j, dy_j = x[:, :, part, j], dys[:, :, part, j]
            decay = torch.exp(x_j.unsqueeze(-1) * A)
            g, after = _step_back(g, dy_j, Cs[:, :, part, j], decay)
            dCs[:, :, part, j] = (dy_j.unsqueeze(-1) * states.pop()).sum(-2)
            dBs[:, :, part, j] = (g * xu[:, :, part, j].unsqueeze(-1)).sum(-2)
            d_input = (g * Bs[:, :, part, j].unsqueeze(-2)).sum(-1)  # gradient of x u
            d_exponent = after * states[-1]  # gradient of x A
            dA += (d_exponent * x_j.unsqueeze(-1)).sum((0, 2)).unsqueeze(1)
            dus[:, :, part, j] = d_input * x_j
            dxs[:, :, part, j] = d_input * us[:, :, part, j] + (d_exponent * A).sum(-1)
            g = after
    dus += D[:, None, None] * dys
    dD = (dys * us).sum((0, 2, 3))
    draw = dxs.flatten(2, 3)[:, :, :length] * torch.where(raw > 20, 1.0, torch.sigmoid(raw))
    du, dB, dC = (_unchunk(t, length, order) for t in (dus, dBs, dCs))
    return du.sum(1), to_pixels(draw, order).contiguous(), dA.squeeze(1), dB, dC, dD, draw.sum((0, 2))


def _step_back(g: Tensor, dy: Tensor, C: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the state that a step leaves behind, and of the state that it found."""
    g = torch.addcmul(g, dy.unsqueeze(-1), C.unsqueeze(-2))
    return g, g * decay
