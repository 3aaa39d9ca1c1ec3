"""Part of a layer on a side stream of the GPU, while a CUDA graph is recorded: its kernels then run at the same time as
those of the main stream, here and in the backward pass, for which autograd takes the streams of the forward pass.

It is for small kernels, which wait more than they compute. Launched one by one they would wait for the host anyway.
"""

from contextlib import ExitStack

import torch
from torch import Tensor

ROWS = 2**16  # of a batch, up to which: more fill a GPU by themselves, and memory that two streams read is reused late

_side_streams: dict[torch.cuda.Stream, torch.cuda.Stream] = {}  # by main stream


class Overlap:
    """The body of its `with` may run at the same time as what is launched after this was made, until `join`.

    The body must read nothing that was computed after that, and nobody may read its results before `join`. Where no
    graph of a training step is recorded, or tokens x [..., C] have many rows, everything runs in program order.
    """

    def __init__(self, x: Tensor) -> None:
        self.side = None
        if not _may_be_recorded(x):
            return
        main = torch.cuda.current_stream(x.device)
        side = _side_stream(main)  # in the steps before the recorded one as well: while recording, none should be made
        if torch.cuda.is_current_stream_capturing():
            self.begun, self.side = main.record_event(), side

    def __enter__(self) -> None:
        if self.side is not None:
            self.side.wait_event(self.begun)
            self.running = ExitStack()
            self.running.enter_context(torch.cuda.stream(self.side))

    def __exit__(self, *error: object) -> None:
        if self.side is not None:
            self.running.close()

    def join(self) -> None:
        """The main stream waits: from here on the results may be read."""
        if self.side is not None:
            torch.cuda.current_stream(self.side.device).wait_stream(self.side)
            self.side = None


def _may_be_recorded(x: Tensor) -> bool:
    """Whether this is part of a training step on a GPU with tokens x, not too many."""
    if torch.compiler.is_compiling() or not (x.is_cuda and torch.is_grad_enabled()):
        return False
    return x.numel() // x.shape[-1] <= ROWS


def _side_stream(main: torch.cuda.Stream) -> torch.cuda.Stream:
    """The side stream of `main`. Of another priority: PyTorch has 32 streams of each and hands them out in turn, so one
    of the same priority could be `main` itself."""
    if main not in _side_streams:
        _side_streams[main] = torch.cuda.Stream(main.device, priority=-1)
    return _side_streams[main]
