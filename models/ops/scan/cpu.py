"""The scan compiled for this processor (models/native/scan.cpp): float32, the same bits for any number of threads."""

import ctypes
import functools

import torch
from torch import Tensor

from models.ops import native

DEVICES = ("cpu",)
TYPES = ()
TILE, PAD, GROUPS, MAX_STATES = 32, 16, 16, 64  # as in scan.cpp; _kernels compares
GRAIN = 2**20  # state updates, about 0.2 ms, that are worth another thread


class _Problem(ctypes.Structure):
    """`Problem` of scan.cpp."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                *("batch", "directions", "length", "channels", "states", "classes_count", "u_batch", "u_row"),
                *("delta_batch", "delta_direction", "delta_row", "B_batch", "B_direction", "B_row"),
                *("C_batch", "C_direction", "C_row", "dy_batch", "dy_direction", "dy_row"),
            )
        ),
        *((n, ctypes.c_void_p) for n in ("u", "delta", "A", "B", "C", "D", "bias", "table", "dy", "order", "classes")),
    ]


@functools.cache
def _kernels() -> ctypes.CDLL:
    library = native.load()
    constants = (ctypes.c_int64 * 5).in_dll(library, "scan_constants")
    assert tuple(constants) == (TILE, PAD, GROUPS, MAX_STATES, ctypes.sizeof(_Problem))
    return library


def unavailable() -> str | None:
    """Why the library cannot be built or loaded, or None. The first call on a machine compiles it, in seconds."""
    try:
        _kernels()
    except native.NativeError as error:
        return str(error)
    return None


def refuses(u: Tensor, A: Tensor) -> str | None:
    """Why these tensors cannot be scanned by this backend, or None."""
    if u.dtype == torch.float64:
        return "it computes in float32, and u is float64"
    return None if A.shape[2] <= MAX_STATES else f"it holds {MAX_STATES} states, not {A.shape[2]}"


def _padded(channels: int) -> int:
    return (channels + PAD - 1) // PAD * PAD


def saved_shape(batch: int, directions: int, length: int, channels: int, states: int) -> tuple[int, ...]:
    """The states before every TILE steps: [B, K, S, N, E padded]."""
    return batch, directions, (length + TILE - 1) // TILE, states, _padded(channels)


class _Call:
    """A `_Problem` over tensors, which it keeps alive while a kernel reads them."""

    def __init__(self, u, delta, A, B, C, D, bias, order, table, classes, dy=None):
        # rows must be contiguous; any other stride is the kernel's business
        rows = {"u": u, "delta": delta, "B": B, "C": C, "dy": dy}
        rows = {n: x if x is None or x.stride(-1) == 1 else x.contiguous() for n, x in rows.items()}
        whole = {"A": A, "D": D, "bias": bias, "table": table, "order": order, "classes": classes}
        whole = {n: None if x is None else x.contiguous() for n, x in whole.items()}
        self.tensors = {**rows, **whole}
        batch, directions, length, channels = delta.shape
        problem = _Problem(batch, directions, length, channels, A.shape[2], 0 if table is None else table.shape[0])
        for name, x in self.tensors.items():
            setattr(problem, name, None if x is None else x.data_ptr())
        for name, x in rows.items():
            if x is not None:
                setattr(problem, f"{name}_batch", x.stride(0))
                setattr(problem, f"{name}_row", x.stride(-2))
                if name != "u":
                    setattr(problem, f"{name}_direction", x.stride(1))
        self.problem = problem

    def run(self, kernel, *outputs: Tensor) -> None:
        pointers = [ctypes.c_void_p(x.data_ptr() if x is not None else None) for x in outputs]
        p = self.problem
        updates = p.batch * p.directions * p.length * p.channels * p.states
        threads = max(1, min(torch.get_num_threads(), updates // GRAIN))
        if kernel(ctypes.byref(p), *pointers, threads):
            raise IndexError("attentive_scan: an entry of order or of prompt.classes is out of range")


def forward(u, delta, A, B, C, D, delta_bias, order, table, classes, save) -> tuple[Tensor, Tensor]:
    """y [B, K, L, E] in pixel order; arguments as in `attentive_scan`, `classes` [B, K, L] in step order."""
    y = torch.empty(delta.shape)
    shape = saved_shape(*delta.shape, A.shape[2])
    made = torch.empty if shape[-1] == delta.shape[-1] else torch.zeros  # nothing is written past the channels
    saved = made(shape) if save else None
    _Call(u, delta, A, B, C, D, delta_bias, order, table, classes).run(_kernels().scan_forward, y, saved)
    return y, saved if save else torch.empty(0)


def backward(grad_y, saved, u, delta, A, B, C, D, delta_bias, order, table, classes) -> tuple[Tensor, ...]:
    """Gradients of (u, delta, A, B, C, D, delta_bias) in the shapes of those."""
    (batch, directions, length, channels), states = delta.shape, A.shape[2]
    padded = _padded(channels)
    adjoint, dA = torch.zeros(2, batch, directions, states, padded).unbind()
    dD, dbias = torch.zeros(2, batch, directions, padded).unbind()
    du, ddelta, dB, dC = (torch.empty(x.shape) for x in (delta, delta, B, C))
    partial = torch.empty(min(GROUPS, padded), batch, directions, length, 2 * states)
    call = _Call(u, delta, A, B, C, D, delta_bias, order, table, classes, grad_y)
    call.run(_kernels().scan_backward, saved, adjoint, du, ddelta, dA, partial, dB, dC, dD, dbias)
    du = du.sum(1) if directions > 1 else du.squeeze(1)
    dA = dA.sum(0)[:, :, :channels].transpose(1, 2).contiguous()
    return du, ddelta, dA, dB, dC, dD.sum(0)[:, :channels].contiguous(), dbias.sum(0)[:, :channels].contiguous()
