"""The scan in Triton kernels: in float32, parallel over the sequence too, the same bits on every run.

Every chunk is scanned from a zero state, the states at the borders are carried on, every chunk is scanned again from
its true state; backward likewise. Nothing is ever divided by a decay: each is 2 to a power that is not positive.
Kernels: forward_kernels.py, backward_kernels.py.
"""

import functools
import importlib.util
import os
from typing import NamedTuple

import torch
from torch import Tensor

from models.ops.common import kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ("cuda", "cpu") if INTERPRETED else ("cuda",)
TYPES = (torch.bfloat16,)
ROWS, SHARE, BLOCK = 4, 4, 16  # steps at a time, chunks and channels of a warp, as in tiles.py
FORWARD_PART, BACKWARD_PART = 16, 8  # states at a time
MAX_STATES = 64
BACKWARD_WARPS = 8  # per multiprocessor, of work to aim at
MIN_CHUNK = 16
SHORT_CHUNK = 24  # below it, programs rather share the channels of a chunk backward; each writes its own dB and dC
NARROW = 2**32  # numbers that offsets of 32 bits reach
CARRIED = 4096  # chunks that one program of `carry` reads at a time, at most
CARRY_TILE = 2048  # chunks times states that it reads at a time, at least


def unavailable() -> str | None:
    """Why Triton cannot run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (pip install 'triton>=3.6')"
    if INTERPRETED:
        return None
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    return kernels.unavailable(torch.device("cuda", torch.cuda.current_device()))


def refuses(u: Tensor, A: Tensor) -> str | None:
    """Why these tensors cannot be scanned by this backend, or None."""
    if u.dtype == torch.float64:
        return "it computes in float32, and u is float64"
    return None if A.shape[2] <= MAX_STATES else f"it holds {MAX_STATES} states, not {A.shape[2]}"


def saved_shape(batch: int, directions: int, length: int, channels: int, states: int) -> tuple[int, ...]:
    """The states before every ROWS steps: [B, K, S, N, E]."""
    return batch, directions, _ceil(length, ROWS), states, channels


class Forward(NamedTuple):
    """Warps per multiprocessor to aim at, and registers that a thread of `ends` and of `replay` may have."""

    warps: int
    ends: int
    replay: int


def _forward_tuning(states: int, prompted: bool) -> Forward:
    """As measured on an H200 at 230,400 tokens: more warps until registers would spill."""
    if states > 8:
        return Forward(12, 128, 168)
    return Forward(16, 80, 128) if prompted else Forward(20, 80, 96)


def _ceil(a: int, b: int) -> int:
    return (a + b - 1) // b


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@functools.cache
def _multiprocessors(index: int | None) -> int:
    return 1 if index is None else torch.cuda.get_device_properties(index).multi_processor_count


class _Call:
    """The arguments that the kernels share, and how the work is cut."""

    def __init__(self, u, delta, A, B, C, bias, order, table, classes, dy=None):
        self.batch, self.directions, self.length, self.channels = delta.shape
        self.states = A.shape[2]
        self.u, self.delta, self.B, self.C = (_rows(x) for x in (u, delta, B, C))
        self.A, self.bias = A.contiguous(), bias.contiguous()
        self.order, self.table, self.classes = (None if x is None else x.contiguous() for x in (order, table, classes))
        self.dy = None if dy is None else _rows(dy)
        self.blocks = _ceil(self.channels, BLOCK)
        self.sequences = self.batch * self.directions
        self.tuning = _forward_tuning(self.states, order is not None or table is not None)
        warps = self.tuning.warps if dy is None else BACKWARD_WARPS
        wanted = warps * SHARE * _multiprocessors(u.device.index)  # chunks, times programs that share one
        self.teams = self.blocks
        if dy is not None:
            self.teams = min(self.blocks, _ceil(wanted * SHORT_CHUNK, self.sequences * self.length))
        wanted = _ceil(wanted, self.sequences * self.teams)
        self.chunk = max(MIN_CHUNK, _ceil(_ceil(self.length, wanted), ROWS) * ROWS)
        self.chunks = _ceil(self.length, self.chunk)
        self.groups = _ceil(self.chunks, SHARE)
        self.cut = (self.length, self.chunks, self.chunk, self.directions)
        wide = [x for x in (self.u, self.delta, self.dy) if x is not None]
        rows = [x.stride(-2) for x in (*wide, self.B, self.C)]
        self.sizes = {
            "E": self.channels,
            "N": self.states,
            "PART": min(FORWARD_PART if dy is None else BACKWARD_PART, _power_of_two(self.states)),
            "WIDE": self.length * max(*rows, self.channels) >= NARROW,
            "PAIRED": self.channels % 2 == 0 and all(_paired(x) for x in wide),
        }

    def written(self, x: Tensor) -> torch.dtype:
        """The type of a result that has that of x: float32 if a second part of the states adds to the first."""
        return x.dtype if self.states <= self.sizes["PART"] else self.A.dtype

    def carried(self, v: Tensor, M: Tensor, prompts: tuple, adjoint: bool) -> Tensor | None:
        """The states that leave the chunks [B K, N, E, S], or their gradients; None for one chunk."""
        if self.chunks == 1:
            return None
        from models.ops.scan.triton.forward_kernels import carry_kernel, ends_kernel

        ends = self.A.new_empty(self.sequences, self.states, self.channels, self.chunks)
        sums = self.A.new_empty(self.sequences, self.channels, self.chunks)
        parts = _ceil(self.states, self.sizes["PART"])
        ends_kernel[(self.sequences * self.groups * self.blocks * parts,)](
            *(v, self.delta, self.A, M, self.bias, self.order, *prompts, ends, sums, *self.cut),
            *(v.stride(0), v.stride(1) if v.ndim == 4 else 0, *self.delta.stride()[:2], *M.stride()[:2]),
            **self.sizes,
            V_ROW=v.stride(-2),
            DELTA_ROW=self.delta.stride(2),
            M_ROW=M.stride(2),
            ADJOINT=adjoint,
            num_warps=1,
            maxnreg=None if adjoint else self.tuning.ends,
        )
        count, tile = self.sequences * self.states * self.channels, min(CARRIED, _power_of_two(self.chunks))
        columns = max(1, CARRY_TILE // tile)
        carry_kernel[(_ceil(count, columns),)](
            *(ends, sums, self.A, count, self.chunks, self.directions, self.channels, self.states),
            COLUMNS=columns,
            CHUNKS=tile,
            ADJOINT=adjoint,
            num_warps=4,
        )
        return ends


def _rows(x: Tensor) -> Tensor:
    """Rows must be contiguous; any other stride is the kernels' business."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _paired(x: Tensor) -> bool:
    """Whether every row lies on an address of two numbers."""
    return x.data_ptr() % (2 * x.element_size()) == 0 and all(stride % 2 == 0 for stride in x.stride()[:-1])


def forward(u, delta, A, B, C, D, delta_bias, order, table, classes, save) -> tuple[Tensor, Tensor]:
    """y [B, K, L, E] in pixel order; arguments as in `attentive_scan`, `classes` [B, K, L] in step order."""
    from models.ops.scan.triton.forward_kernels import replay_kernel

    with torch.cuda.device_of(u):
        call = _Call(u, delta, A, B, C, delta_bias, order, table, classes)
        y = A.new_empty(delta.shape, dtype=call.written(u))
        saved = A.new_empty(saved_shape(*delta.shape, A.shape[2])) if save else None
        ends = call.carried(call.u, call.B, (None, None), adjoint=False)
        replay_kernel[(call.sequences * call.groups * call.blocks,)](
            *(call.u, call.delta, call.A, call.B, call.C, D.contiguous(), call.bias),
            *(call.order, call.table, call.classes, ends, y, saved, *call.cut),
            *(call.u.stride(0), *call.delta.stride()[:2], *call.B.stride()[:2], *call.C.stride()[:2]),
            **call.sizes,
            U_ROW=call.u.stride(1),
            DELTA_ROW=call.delta.stride(2),
            B_ROW=call.B.stride(2),
            C_ROW=call.C.stride(2),
            num_warps=1,
            maxnreg=call.tuning.replay,
        )
        return y, saved if save else A.new_empty(0)


def backward(grad_y, saved, u, delta, A, B, C, D, delta_bias, order, table, classes) -> tuple[Tensor, ...]:
    """Gradients of (u, delta, A, B, C, D, delta_bias) in the shapes of those."""
    from models.ops.scan.triton.backward_kernels import adjoint_kernel, collect_kernel

    with torch.cuda.device_of(u):
        call = _Call(u, delta, A, B, C, delta_bias, order, table, classes, grad_y)
        ends = call.carried(call.dy, call.C, (call.table, call.classes), adjoint=True)
        directions, channels, states = A.shape
        du = A.new_empty(delta.shape, dtype=call.written(u) if directions == 1 else A.dtype)
        ddelta = A.new_empty(delta.shape, dtype=call.written(delta))
        dB, dC = (A.new_empty(call.teams, *x.shape) for x in (B, C))  # sums over blocks of channels
        partial = A.new_empty(call.batch, call.groups, states + 2, directions, channels)
        adjoint_kernel[(call.sequences * call.groups * call.teams,)](
            *(call.u, call.delta, call.A, call.B, call.C, D.contiguous(), call.bias),
            *(call.order, call.table, call.classes, call.dy, ends, saved, du, ddelta, dB, dC, partial),
            *(*call.cut, call.teams),
            *(call.u.stride(0), *call.delta.stride()[:2], *call.B.stride()[:2], *call.C.stride()[:2]),
            *call.dy.stride()[:2],
            **call.sizes,
            U_ROW=call.u.stride(1),
            DELTA_ROW=call.delta.stride(2),
            B_ROW=call.B.stride(2),
            C_ROW=call.C.stride(2),
            DY_ROW=call.dy.stride(2),
            num_warps=1,
        )
        dA, dD, dbias = (A.new_empty(x.shape) for x in (A, D, delta_bias))
        count, columns = call.batch * call.groups, 8
        collect_kernel[(_ceil((states + 2) * directions * channels, columns),)](
            *(partial, dA, dD, dbias, count, directions * channels, states),
            COUNT=min(256, _power_of_two(count)),
            COLUMNS=columns,
            num_warps=4,
        )
        dB, dC = (x.sum(0) if call.teams > 1 else x.squeeze(0) for x in (dB, dC))
        du = du.sum(1) if directions > 1 else du.squeeze(1)
        return du, ddelta, dA, dB, dC, dD, dbias
