"""The peer: the CUDA scan of state-spaces/mamba, which the official network calls, behind this package's operator.

It is measured (`runner.py profile --backends mamba_ssm`), never chosen. The operator hands over what the official code
does: sequences gathered into scan order with the prompts added to C beforehand, channels before steps ([B, K E, L] and
[B, K, N, L]), and the results gathered back. That work is part of its time, as it is in the official network.

Calls `selective_scan_cuda.fwd` and `bwd`, as mamba_ssm.ops.selective_scan_interface.SelectiveScanFn does, which keeps
the same things between them. Its gradient of A is summed by atomics: not the same bits on every run.
"""

import importlib
import importlib.util

import torch
from einops import rearrange
from torch import Tensor

from models.ops.scan.permutation import to_pixels, to_steps

DEVICES = ("cuda",)
TYPES = ()
EXTENSION = "selective_scan_cuda"
CHUNK = 2048  # steps between two states that it keeps (selective_scan_fwd_kernel.cuh)
MAX_STATES = 256  # MAX_DSTATE of selective_scan.h


def unavailable() -> str | None:
    """Why the peer cannot run here, or None."""
    if importlib.util.find_spec(EXTENSION) is None:
        return "the package mamba_ssm with its compiled extension is not installed (pip install mamba-ssm)"
    return None if torch.cuda.is_available() else "PyTorch finds no CUDA device"


def refuses(u: Tensor, A: Tensor) -> str | None:
    """Why these tensors cannot be scanned by this backend, or None."""
    if u.dtype == torch.float64:
        return "it computes in float32, and u is float64"
    return None if A.shape[2] <= MAX_STATES else f"it holds {MAX_STATES} states, not {A.shape[2]}"


def saved_shape(batch: int, directions: int, length: int, channels: int, states: int) -> tuple[int, ...]:
    """Products of decays and states at the ends of its chunks: [B, K E, S, 2 N]."""
    return batch, directions * channels, (length + CHUNK - 1) // CHUNK, 2 * states


def _arguments(u, delta, A, B, C, D, delta_bias, order, table, classes) -> tuple[Tensor, ...]:
    """(u, delta, A, B, C, D, delta_bias) in step order and in the peer's layout."""
    C = to_steps(C, order)
    C = C if table is None else C + table[classes]
    sequences = (to_steps(u.unsqueeze(1).expand_as(delta), order), to_steps(delta, order))
    u, delta = (rearrange(x, "b k l e -> b (k e) l").contiguous() for x in sequences)
    B, C = (rearrange(x, "b k l n -> b k n l").contiguous() for x in (to_steps(B, order), C))
    return u, delta, A.flatten(0, 1).contiguous(), B, C, D.flatten().contiguous(), delta_bias.flatten().contiguous()


def forward(u, delta, A, B, C, D, delta_bias, order, table, classes, save) -> tuple[Tensor, Tensor]:
    """y [B, K, L, E] in pixel order; arguments as in `attentive_scan`, `classes` [B, K, L] in step order."""
    u_, delta_, A_, B_, C_, D_, bias = _arguments(u, delta, A, B, C, D, delta_bias, order, table, classes)
    out, states, *_ = importlib.import_module(EXTENSION).fwd(u_, delta_, A_, B_, C_, D_, None, bias, True)
    y = rearrange(out, "b (k e) l -> b k l e", k=delta.shape[1])
    return to_pixels(y, order).contiguous(), states if save else u.new_empty(0)


def backward(grad_y, saved, u, delta, A, B, C, D, delta_bias, order, table, classes) -> tuple[Tensor, ...]:
    """Gradients of (u, delta, A, B, C, D, delta_bias) in the shapes of those."""
    directions = delta.shape[1]
    u_, delta_, A_, B_, C_, D_, bias = _arguments(u, delta, A, B, C, D, delta_bias, order, table, classes)
    dy = rearrange(to_steps(grad_y, order), "b k l e -> b (k e) l").contiguous()
    grads = importlib.import_module(EXTENSION).bwd(
        u_, delta_, A_, B_, C_, D_, None, bias, dy, saved, None, None, True, False
    )
    du, ddelta, dA, dB, dC, dD, dbias = grads[:7]

    def pixels(x: Tensor, pattern: str) -> Tensor:
        return to_pixels(rearrange(x, f"{pattern} -> b k l e", k=directions), order).contiguous()

    channels, states = "b (k e) l", "b k e l"
    return (
        pixels(du, channels).sum(1),
        pixels(ddelta, channels),
        dA.view_as(A),
        pixels(dB, states),
        pixels(dC, states),
        dD.view_as(D),
        dbias.view_as(delta_bias),
    )
