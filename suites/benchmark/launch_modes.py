"""Launch modes of `profile`: eager (kernel by kernel), compiled (torch.compile), graph (one CUDA graph), tiles (as
`evaluate` and `restore` launch a tile whose size recurs)."""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import models
from suites.training.cuda_graph import WARM, GraphedStep

LAUNCH_MODES = ("eager", "compiled", "graph", "tiles")


class MeasuredGraph:
    """`work(batch)` as one CUDA graph (suites.training.cuda_graph), with its memory measured. A call replays it.

    work, batch: as in `GraphedStep`. `batch` is copied; so is, into the same place, the one given to a call. own: bytes
    that the work keeps on the device between two calls. parameters: whose gradients the work leaves behind, if any.

    gradients: where the graph leaves them, None for a parameter without one. peak_mib: the most that tensors took while
    it was recorded, other work's left out. pool_mib: the memory that the graph holds as long as it lives.
    Raises ModelError without a GPU.
    """

    def __init__(
        self,
        work: Callable[[Any], Any],
        batch: Any,
        own: Callable[[], int] = lambda: 0,
        parameters: Sequence[Tensor] = (),
    ) -> None:
        device = next((x.device for x in vars(batch).values() if torch.is_tensor(x)), torch.device("cpu"))
        if device.type != "cuda":
            raise models.ModelError(f"a CUDA graph needs a GPU, not {device.type}: choose eager or compiled")
        self.replay = GraphedStep(work, device)
        place = type(batch)(**{name: x.clone() if torch.is_tensor(x) else x for name, x in vars(batch).items()})
        gc.collect()  # autograd forgets the streams of work that is over
        for _ in range(WARM):
            self.replay(place)
        torch.cuda.synchronize(device)
        gc.collect()
        torch.cuda.empty_cache()
        reserved, others = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device) - own()
        torch.cuda.reset_peak_memory_stats(device)
        self.replay(place)
        torch.cuda.synchronize(device)
        self.peak_mib = (torch.cuda.max_memory_allocated(device) - others) / 2**20
        torch.cuda.empty_cache()
        self.pool_mib = (torch.cuda.memory_reserved(device) - reserved) / 2**20
        self.gradients = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None  # the next work, recorded or not, has its own

    def __call__(self, batch: Any = None) -> Any:
        """The result, which the next call overwrites; without `batch` on the batch of the last call."""
        if batch is not None:
            return self.replay(batch)
        self.replay.graph.replay()
        return self.replay.result
