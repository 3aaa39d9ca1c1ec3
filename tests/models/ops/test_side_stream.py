"""Part of a layer on a side stream: in which order two streams take it, with streams that note what they are told."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

import models
from models import layers
from models.ops.common import side_stream
from models.ops.common.side_stream import Overlap


class Stream:
    device = "cuda:0"

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def record_event(self) -> str:
        self.told.append(f"{self.name} marks")
        return f"mark of {self.name}"

    def wait_event(self, event: str) -> None:
        self.told.append(f"{self.name} waits for {event}")

    def wait_stream(self, other: "Stream") -> None:
        self.told.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """A GPU that records a graph, as far as `Overlap` sees one."""
    told: list[str] = []
    at = [Stream("first", told)]

    @contextlib.contextmanager
    def taken(stream):
        at.append(stream)
        yield
        at.pop()

    replaced = {"is_current_stream_capturing": lambda: True, "current_stream": lambda *device: at[-1]}
    replaced |= {"Stream": lambda *_, **__: Stream("side", told), "stream": taken}
    for name, function in replaced.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(side_stream, "_side_streams", {})
    return told


def tokens(*shape: int):
    return SimpleNamespace(is_cuda=True, device="cuda:0", shape=shape, numel=torch.Size(shape).numel)


def test_the_side_stream_starts_where_it_was_made_and_is_waited_for(told):
    work = Overlap(tokens(2, 8, 8, 48))
    told.append("first computes")
    with work:
        told.append(f"{torch.cuda.current_stream().name} computes")
    told.append(f"{torch.cuda.current_stream().name} computes")
    work.join()
    work.join()
    first = ["first marks", "first computes", "side waits for mark of first", "side computes", "first computes"]
    assert told == [*first, "first waits for side"]


def test_one_stream_does_it_elsewhere(told, monkeypatch):
    """Without gradients, with more rows than two streams share, and where no graph is recorded."""
    for context, x in ((torch.no_grad(), tokens(2, 48)), (contextlib.nullcontext(), tokens(side_stream.ROWS + 1, 48))):
        with context:
            work = Overlap(x)
            with work:
                told.append(torch.cuda.current_stream().name)
            work.join()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with Overlap(tokens(2, 48)):
        told.append(torch.cuda.current_stream().name)
    assert told == ["first"] * 3


def test_networks_join_before_they_scan(monkeypatch):
    """Every kind of layer: whoever reads classes or order has waited."""
    events: list[str] = []
    monkeypatch.setattr(Overlap, "__enter__", lambda self: events.append("overlap"))
    monkeypatch.setattr(Overlap, "join", lambda self: events.append("join"))
    for name in ("attentive_scan", "prompts_of_pixels"):
        function = getattr(layers, name)

        def noted(*arguments, name=name, function=function, **options):
            events.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(layers, name, noted)
    for target in ("C", "delta"):
        made = models.build("mambairv2-tiny", backend="chunked", prompt_target=target, depths=(1,), num_heads=(4,))
        made(torch.rand(1, 3, 4, 4))
        assert events[:2] == ["overlap", "join"] and events[-1] == "attentive_scan"
        assert target == "C" or "prompts_of_pixels" in events
        events.clear()
