"""Work beside other work: on a second stream of a GPU while a CUDA graph is recorded, so that kernels of both run at
the same time, here and in the backward pass, which autograd takes on the streams of the forward pass.

Small kernels wait more than they compute. Launched one by one they would wait for the host in any case.
"""

import torch
from torch import Tensor

ROWS = 2**16  # of a batch, up to which: more fill a GPU by themselves, and memory that two streams read is reused late

_seconds: dict[torch.cuda.Stream, torch.cuda.Stream] = {}


class Beside:
    """What its `with` holds may run at the same time as what is launched since this was made, until `join`.

    It must read nothing that was computed since, and nobody may read what it computes before `join`. Everything is in
    the order of the program where no graph of a training step is recorded, or for tokens x [..., C] of many rows.
    """

    def __init__(self, x: Tensor) -> None:
        self.second = None
        if not _may_be_recorded(x):
            return
        now = torch.cuda.current_stream(x.device)
        second = _second(now)  # in the steps before one is recorded too, for in that none should be made
        if torch.cuda.is_current_stream_capturing():
            self.begun, self.second = now.record_event(), second

    def __enter__(self) -> None:
        if self.second is not None:
            self.second.wait_event(self.begun)
            self.running = torch.cuda.stream(self.second)
            self.running.__enter__()

    def __exit__(self, *error: object) -> None:
        if self.second is not None:
            self.running.__exit__(*error)

    def join(self) -> None:
        """From here on its results may be read."""
        if self.second is not None:
            torch.cuda.current_stream(self.second.device).wait_stream(self.second)
            self.second = None


def _may_be_recorded(x: Tensor) -> bool:
    """Whether this is part of a training step on a GPU with tokens x, not too many."""
    if torch.compiler.is_compiling() or not (x.is_cuda and torch.is_grad_enabled()):
        return False
    return x.numel() // x.shape[-1] <= ROWS


def _second(stream: torch.cuda.Stream) -> torch.cuda.Stream:
    """The stream beside this one; of another priority, because streams of one are shared out again after the 32nd."""
    if stream not in _seconds:
        _seconds[stream] = torch.cuda.Stream(stream.device, priority=-1)
    return _seconds[stream]
