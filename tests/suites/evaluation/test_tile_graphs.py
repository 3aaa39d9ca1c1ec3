"""When tiles are recorded, without a GPU: a graph is stood in for by the work that it would repeat."""

from types import SimpleNamespace

import pytest
import torch

import models
from suites.evaluation import tile_graphs
from suites.training.cuda_graph import CaptureError


class Recorded:
    """In the place of GraphedStep: remembers how often it is called."""

    def __init__(self, work, device, *, warm, pool, stream) -> None:
        self.work, self.calls = work, 0

    def __call__(self, batch):
        self.calls += 1
        return self.work(batch)


@pytest.fixture
def recording(monkeypatch):
    made: list[Recorded] = []

    def record(*arguments, **how) -> Recorded:
        made.append(Recorded(*arguments, **how))
        return made[-1]

    monkeypatch.setattr(tile_graphs, "GraphedStep", record)
    monkeypatch.setattr(tile_graphs, "recordable", lambda network, device: True)
    monkeypatch.setattr(tile_graphs.torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(tile_graphs.torch.cuda, "Stream", lambda device: None)
    return made


def test_a_size_is_recorded_once_it_recurs_and_every_result_is_the_network_s(recording):
    network = models.build("mambairv2-tiny").eval()
    graphs = tile_graphs.TileGraphs(network, "cpu")
    sizes = [(8, 8), (8, 16), (8, 8), (8, 8), (8, 8), (8, 16)]
    with torch.no_grad():
        for key, size in enumerate(sizes):
            tile = torch.rand(1, 3, *size)
            result = graphs(tile, None, key)
            assert torch.equal(result, tile_graphs.forward(network, tile, None, key))
    assert list(graphs.recorded) == [(8, 8)] and recording[0].calls == 2


def test_a_size_that_cannot_be_recorded_is_told_and_launched_plainly(recording, monkeypatch):
    def refuse(self, batch):
        raise CaptureError("not permitted")

    monkeypatch.setattr(Recorded, "__call__", refuse)
    network, tile = torch.nn.Conv2d(3, 3, 1), torch.rand(1, 3, 8, 8)
    graphs = tile_graphs.TileGraphs(network, "cpu")
    plain = [graphs(tile, None, None) for _ in range(tile_graphs.RECURS)]
    with pytest.warns(UserWarning, match="kernel by kernel: not permitted"):
        assert torch.equal(graphs(tile, None, None), plain[0])
    assert torch.equal(graphs(tile, None, None), plain[0])  # and is not tried again


def test_what_autocast_keeps_for_a_picture_is_not_read_by_its_graphs(recording):
    kept = []

    class Watched(torch.nn.Conv2d):
        def forward(self, x):
            kept.append(torch.is_autocast_cache_enabled())
            return super().forward(x)

    network = Watched(3, 3, 1)
    graphs, tile = tile_graphs.TileGraphs(network, "cpu"), torch.rand(1, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        results = [graphs(tile, None, None) for _ in range(tile_graphs.RECURS + 1)]
    assert kept == [True] * tile_graphs.RECURS + [False]
    assert all(torch.equal(one, results[0]) and one.dtype == torch.bfloat16 for one in results)


def test_only_declared_networks_in_kernels_are_recorded(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(tile_graphs.scan, "resolve", lambda backend, device: "triton" if backend == "auto" else backend)
    assert tile_graphs.recordable(models.build("mambairv2-tiny"), gpu)
    assert not tile_graphs.recordable(models.build("mambairv2-tiny"), torch.device("cpu"))
    assert not tile_graphs.recordable(models.build("mambairv2-tiny", backend="chunked"), gpu)
    assert not tile_graphs.recordable(torch.nn.Identity(), gpu)
    assert not tile_graphs.recordable(SimpleNamespace(), gpu)
