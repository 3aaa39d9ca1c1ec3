"""Work that recurs as one CUDA graph: the host starts it whole instead of several thousand kernels one by one."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM = 3  # steps before the capture: kernels are compiled, the optimizer's state and cuBLAS's workspaces allocated


class CaptureError(RuntimeError):
    """What was called could not be recorded. It was not done; launched kernel by kernel it may work."""


class GraphedStep:
    """`work(batch)`, recorded once it was called `warm` times and replayed from then on, with the same bits.

    warm: 3, what a training step needs. pool, stream: memory and stream that graphs share of which one runs at a time.
    `work` reads nothing back, draws from no generator of torch, and takes what changes from step to step from the
    batch, whose shapes stay the same, or from tensors that stay where they are (as the optimizer's learning rate). Its
    result is overwritten by the next call. Raises CaptureError when it cannot be recorded.
    """

    def __init__(
        self,
        work: Callable[[Any], Tensor],
        device: torch.device | None = None,
        *,
        warm: int = WARM,
        pool: Any = None,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        self.work, self.calls, self.warm, self.pool = work, 0, warm, pool
        self.stream = stream or torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Any) -> Tensor:
        if self.graph is None:
            self.calls += 1
            if self.calls <= self.warm:
                return self._plainly(batch)
            self.graph = self._recorded(batch)
        else:
            for name, place in vars(self.batch).items():
                if place is not None:
                    place.copy_(getattr(batch, name))
        self.graph.replay()
        return self.result

    def _plainly(self, batch: Any) -> Tensor:
        """On the stream of the capture, because autograd remembers the stream on which a parameter was first used."""
        now = torch.cuda.current_stream()
        self.stream.wait_stream(now)
        with torch.cuda.stream(self.stream):
            result = self.work(batch)
        now.wait_stream(self.stream)
        return result

    def _recorded(self, batch: Any) -> torch.cuda.CUDAGraph:
        self.batch = batch
        gc.collect()
        torch.cuda.empty_cache()  # the graph has memory of its own
        graph = torch.cuda.CUDAGraph()
        try:
            # The thread that fetches batches may go on: it pins memory, which other modes forbid to every thread.
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                self.result = self.work(batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise CaptureError(f"a step could not be recorded as a CUDA graph: {str(error).splitlines()[0]}") from error
        return graph
