"""A training step as one CUDA graph: the host starts it whole instead of several thousand kernels one by one."""

import gc
from collections.abc import Callable

import torch
from torch import Tensor

from suites.pool import Batch

WARM = 3  # steps before the capture: kernels are compiled, the optimizer's state and cuBLAS's workspaces allocated


class Captured:
    """`work(batch)`, recorded at the fourth call and replayed from then on: every call is one step, with the same bits.

    `work` reads nothing back, draws from no generator of torch, and takes what changes from step to step from the
    batch, whose shapes stay the same, or from tensors that stay where they are (as the optimizer's learning rate). Its
    result is overwritten by the next call.
    """

    def __init__(self, work: Callable[[Batch], Tensor]) -> None:
        self.work, self.calls = work, 0
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> Tensor:
        if self.graph is None:
            self.calls += 1
            if self.calls <= WARM:
                return self._plainly(batch)
            self._capture(batch)
        else:
            for name, place in vars(self.batch).items():
                if place is not None:
                    place.copy_(getattr(batch, name))
        self.graph.replay()
        return self.result

    def _plainly(self, batch: Batch) -> Tensor:
        """On the stream of the capture, because autograd remembers the stream on which a parameter was first used."""
        now = torch.cuda.current_stream()
        self.stream.wait_stream(now)
        with torch.cuda.stream(self.stream):
            result = self.work(batch)
        now.wait_stream(self.stream)
        return result

    def _capture(self, batch: Batch) -> None:
        self.batch = batch
        gc.collect()
        torch.cuda.empty_cache()  # the graph has memory of its own
        self.graph = torch.cuda.CUDAGraph()
        # The thread that fetches batches may go on meanwhile: it pins memory, which other modes forbid to every thread.
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.result = self.work(batch)
