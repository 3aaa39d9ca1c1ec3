"""The scan in Triton kernels: float32, parallel over the sequence too, the same bits on every run.

Every chunk is scanned from a zero state, the states at the borders are carried on, every chunk is scanned again from
its true state; backward likewise. Decays only ever multiply. Kernels: triton_forward.py, triton_backward.py.
"""

import functools
import importlib.util
import os

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ("cuda", "cpu") if INTERPRETED else ("cuda",)
ROWS, WIDTH, GROUP = 8, 16, 2  # steps at a time, channels and chunks side by side in a warp, as in triton_tiles.py
MAX_STATES = 64
MAX_REGISTERS = 32  # states that a lane holds: channels per lane times N
WARPS = 8  # per multiprocessor, of work to aim at
MIN_CHUNK = 32
CARRIED = 1024  # chunks that one program of `carry` reads at a time
LOG2E = 1.4426950408889634


def unavailable() -> str | None:
    """Why Triton cannot run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (pip install 'triton>=3.6')"
    if not INTERPRETED and not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    return None


def refuses(u: Tensor, A: Tensor) -> str | None:
    """Why these tensors cannot be scanned by this backend, or None."""
    if u.dtype == torch.float64:
        return "it computes in float32, and u is float64"
    return None if A.shape[2] <= MAX_STATES else f"it holds {MAX_STATES} states, not {A.shape[2]}"


def saved_shape(batch: int, directions: int, length: int, channels: int, states: int) -> tuple[int, ...]:
    """The states before every ROWS steps: [B, K, S, N, E]."""
    return batch, directions, _ceil(length, ROWS), states, channels


def _ceil(a: int, b: int) -> int:
    return (a + b - 1) // b


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@functools.cache
def _multiprocessors(index: int | None) -> int:
    return 1 if index is None else torch.cuda.get_device_properties(index).multi_processor_count


@functools.cache
def _blocks(channels: int, states: int) -> int:
    """Channels per lane: few lanes without a channel, then many channels that share what is loaded of B and C."""
    fitting = [n for n in (1, 2, 3) if n == 1 or n * states <= MAX_REGISTERS]
    return min(fitting, key=lambda n: _ceil(channels, n * WIDTH) * n * (1 + 0.15 / n))


class _Call:
    """The arguments that the kernels share, and how the work is cut."""

    def __init__(self, u, delta, A, B, C, bias, order, table, classes):
        self.batch, self.directions, self.length, self.channels = delta.shape
        self.states = A.shape[2]
        self.u, self.delta, self.B, self.C = (_rows(x) for x in (u, delta, B, C))
        self.A, self.bias = A.contiguous(), bias.contiguous()
        self.order, self.table, self.classes = (None if x is None else x.contiguous() for x in (order, table, classes))
        self.blocks = _blocks(self.channels, self.states)
        self.channel_blocks = _ceil(self.channels, self.blocks * WIDTH)
        sequences = self.batch * self.directions
        wanted = _ceil(WARPS * GROUP * _multiprocessors(u.device.index), sequences * self.channel_blocks)
        self.chunk = max(MIN_CHUNK, _ceil(_ceil(self.length, wanted), ROWS) * ROWS)
        self.chunks = _ceil(self.length, self.chunk)
        self.pairs = _ceil(self.chunks, GROUP)
        self.programs = sequences * self.pairs * self.channel_blocks
        self.cut = (self.length, self.chunks, self.chunk, self.directions)
        self.sizes = {
            "E": self.channels,
            "N": self.states,
            "PADDED": _power_of_two(self.states),
            "BLOCKS": self.blocks,
            "WHOLE": self.channels % (self.blocks * WIDTH) == 0,
        }

    def carried(self, v: Tensor, M: Tensor, prompts: tuple, adjoint: bool) -> Tensor | None:
        """The states that leave the chunks [B K, S, N, E], or their gradients; None for one chunk."""
        if self.chunks == 1:
            return None
        from models.scan.triton_forward import carry_kernel, ends_kernel

        sequences = self.batch * self.directions
        ends = self.A.new_empty(sequences, self.chunks, self.states, self.channels)
        sums = self.A.new_empty(sequences, self.chunks, self.channels)
        ends_kernel[(self.programs,)](
            *(v, self.delta, self.A, M, self.bias, self.order, *prompts, ends, sums, *self.cut),
            *(v.stride(0), v.stride(1) if v.ndim == 4 else 0, *self.delta.stride()[:2], *M.stride()[:2]),
            **self.sizes,
            V_ROW=v.stride(-2),
            DELTA_ROW=self.delta.stride(2),
            M_ROW=M.stride(2),
            ADJOINT=adjoint,
            num_warps=1,
        )
        tile, columns = min(CARRIED, _power_of_two(self.chunks)), 8
        carry_kernel[(sequences * _ceil(self.states * self.channels, columns),)](
            *(ends, sums, self.A, self.chunks, self.directions, self.channels, self.states),
            CHUNKS=tile,
            COLUMNS=columns,
            TILES=_ceil(self.chunks, tile),
            ADJOINT=adjoint,
            num_warps=max(1, min(8, tile // 32)),
        )
        return ends


def _rows(x: Tensor) -> Tensor:
    """Rows must be contiguous; any other stride is the kernels' business."""
    return x if x.stride(-1) == 1 else x.contiguous()


def forward(u, delta, A, B, C, D, delta_bias, order, table, classes, save) -> tuple[Tensor, Tensor]:
    """y [B, K, L, E] in pixel order; arguments as in `attentive_scan`, `classes` [B, K, L] in step order."""
    from models.scan.triton_forward import replay_kernel

    with torch.cuda.device_of(u):
        call = _Call(u, delta, A, B, C, delta_bias, order, table, classes)
        y = delta.new_empty(delta.shape)
        saved = delta.new_empty(saved_shape(*delta.shape, A.shape[2])) if save else None
        ends = call.carried(call.u, call.B, (None, None), adjoint=False)
        replay_kernel[(call.programs,)](
            *(call.u, call.delta, call.A, call.B, call.C, D.contiguous(), call.bias),
            *(call.order, call.table, call.classes, ends, y, saved, *call.cut),
            *(call.u.stride(0), *call.delta.stride()[:2], *call.B.stride()[:2], *call.C.stride()[:2]),
            **call.sizes,
            U_ROW=call.u.stride(1),
            DELTA_ROW=call.delta.stride(2),
            B_ROW=call.B.stride(2),
            C_ROW=call.C.stride(2),
            num_warps=1,
        )
        return y, saved if save else delta.new_empty(0)


def backward(grad_y, saved, u, delta, A, B, C, D, delta_bias, order, table, classes) -> tuple[Tensor, ...]:
    """Gradients of (u, delta, A, B, C, D, delta_bias) in the shapes of those."""
    from models.scan.triton_backward import adjoint_kernel, collect_kernel

    with torch.cuda.device_of(u):
        call = _Call(u, delta, A, B, C, delta_bias, order, table, classes)
        dy = _rows(grad_y)
        ends = call.carried(dy, call.C, (call.table, call.classes), adjoint=True)
        directions, channels, states = A.shape
        scaled_A = torch.mul(A.transpose(1, 2), LOG2E, out=A.new_empty(directions, states, channels))
        du, ddelta = delta.new_empty(delta.shape), delta.new_empty(delta.shape)
        dB, dC = (delta.new_empty(call.channel_blocks, *x.shape) for x in (B, C))
        partial = delta.new_empty(call.batch, call.pairs, states + 2, directions, channels)
        adjoint_kernel[(call.programs,)](
            *(call.u, call.delta, scaled_A, call.B, call.C, D.contiguous(), call.bias),
            *(call.order, call.table, call.classes, dy, ends, saved, du, ddelta, dB, dC, partial, *call.cut),
            *(call.u.stride(0), *call.delta.stride()[:2], *call.B.stride()[:2], *call.C.stride()[:2]),
            *dy.stride()[:2],
            **call.sizes,
            U_ROW=call.u.stride(1),
            DELTA_ROW=call.delta.stride(2),
            B_ROW=call.B.stride(2),
            C_ROW=call.C.stride(2),
            DY_ROW=dy.stride(2),
            num_warps=1,
        )
        dA, dD, dbias = (A.new_empty(x.shape) for x in (A, D, delta_bias))
        count, columns = call.batch * call.pairs, 8
        collect_kernel[(_ceil((states + 2) * directions * channels, columns),)](
            *(partial, dA, dD, dbias, count, directions * channels, states),
            COUNT=min(256, _power_of_two(count)),
            COLUMNS=columns,
            num_warps=4,
        )
        dB, dC = (x.sum(0) if call.channel_blocks > 1 else x.squeeze(0) for x in (dB, dC))
        du = du.sum(1) if directions > 1 else du.squeeze(1)
        return du, ddelta, dA, dB, dC, dD, dbias
