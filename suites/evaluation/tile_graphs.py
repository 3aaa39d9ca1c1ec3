"""The forward pass of a network over tiles whose sizes recur: each size as one CUDA graph, with the same bits."""

import warnings
from collections import Counter
from types import SimpleNamespace

import torch
from torch import Tensor, nn

import models
from models.ops import scan
from models.ops.noise import PhiloxGumbel
from suites.training.cuda_graph import CaptureError, GraphedStep

RECURS = 2  # tiles of a size that are launched kernel by kernel; recording costs about as much as three more


def recordable(network: nn.Module, device: torch.device) -> bool:
    """Whether a CUDA graph of the network's forward has its bits on `device`."""
    declared = models.capabilities_of(network).recordable
    return declared and device.type == "cuda" and scan.resolve(network.backend, device) == "triton"


def forward(network: nn.Module, tile: Tensor, labels: Tensor | None, key: int | Tensor | None) -> Tensor:
    """`network(tile)`, launched kernel by kernel.

    tile: [1, C, h, w]; labels: int64 [1, h, w] or None; key: of the routing noise, a number or int64 [1], or None.
    """
    if key is not None:
        network.noise = PhiloxGumbel(key if isinstance(key, Tensor) else [key])
    return network(tile) if labels is None else network(tile, labels)


class TileGraphs:
    """`graphs(tile, labels, key)` is `forward` of the network, recorded by size once that recurs where `recordable`.

    A result may be overwritten by the next call. The network must stay as it is meanwhile: weights, mode, precision,
    and what hooks or experiments change in it. Graphs share their memory: they hold what the largest of them needs.
    """

    def __init__(self, network: nn.Module, device: str | torch.device) -> None:
        self.network, self.device = network, torch.device(device)
        self.recordable = recordable(network, self.device)
        self.met: Counter[tuple[int, ...]] = Counter()
        self.recorded: dict[tuple[int, ...], GraphedStep] = {}

    def __call__(self, tile: Tensor, labels: Tensor | None, key: int | None) -> Tensor:
        size = tuple(tile.shape[-2:])
        self.met[size] += 1
        if not self.recordable or self.met[size] <= RECURS:
            return forward(self.network, tile, labels, key)
        keys = None if key is None else PhiloxGumbel([key]).on(self.device, 1)
        batch = SimpleNamespace(tile=tile, labels=labels, keys=keys)
        if size not in self.recorded:
            if not self.recorded:
                self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self.device)
            shared = {"pool": self.pool, "stream": self.stream}
            self.recorded[size] = GraphedStep(self._work, self.device, warm=0, **shared)
            batch = SimpleNamespace(**{name: x if x is None else x.clone() for name, x in vars(batch).items()})
        try:
            return self.recorded[size](batch)
        except CaptureError as error:
            warnings.warn(f"from here on tiles are launched kernel by kernel: {error}", stacklevel=2)
            self.recordable = False
            return forward(self.network, tile, labels, key)

    def _work(self, batch: SimpleNamespace) -> Tensor:
        kind = self.device.type
        as_now = {"enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}
        # Weights that autocast keeps in another type live as long as the picture, a graph that reads them lives longer.
        with torch.autocast(kind, cache_enabled=False, **as_now):
            return forward(self.network, batch.tile, batch.labels, batch.keys)
