"""A training step as one CUDA graph: the host starts it whole instead of several thousand kernels one by one."""

import gc
from collections.abc import Callable

import torch
from torch import Tensor

from suites.data.pool import Batch

WARM = 3  # steps before the capture: kernels are compiled, the optimizer's state and cuBLAS's workspaces allocated


class CaptureError(RuntimeError):
    """A step could not be recorded. It was not taken; launched kernel by kernel it may work."""


class GraphedStep:
    """`work(batch)`, recorded at the fourth call and replayed from then on: every call is one step, with the same bits.

    `work` reads nothing back, draws from no generator of torch, and takes what changes from step to step from the
    batch, whose shapes stay the same, or from tensors that stay where they are (as the optimizer's learning rate). Its
    result is overwritten by the next call. Raises CaptureError when the fourth call cannot be recorded.
    """

    def __init__(self, work: Callable[[Batch], Tensor], device: torch.device | None = None) -> None:
        self.work, self.calls = work, 0
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> Tensor:
        if self.graph is None:
            self.calls += 1
            if self.calls <= WARM:
                return self._plainly(batch)
            self.graph = self._recorded(batch)
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

    def _recorded(self, batch: Batch) -> torch.cuda.CUDAGraph:
        self.batch = batch
        gc.collect()
        torch.cuda.empty_cache()  # the graph has memory of its own
        graph = torch.cuda.CUDAGraph()
        try:
            # The thread that fetches batches may go on: it pins memory, which other modes forbid to every thread.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.result = self.work(batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise CaptureError(f"a step could not be recorded as a CUDA graph: {str(error).splitlines()[0]}") from error
        return graph
