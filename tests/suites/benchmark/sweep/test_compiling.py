"""What a sweep compiles first is told apart by network and precision, and compiled once for all later commands."""

import sys
from pathlib import Path

import pytest
import torch

from suites.benchmark.sweep import compiling, points, process

triton = pytest.importorskip("triton")
CHILD = Path(__file__).with_name("child.py")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(process, "COMMAND", [sys.executable, str(CHILD)])
    monkeypatch.setattr(process, "TICK_S", 0.01)
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "log"))
    return tmp_path / "cache"


def test_what_is_compiled_is_not_compiled_again(cache, monkeypatch):
    every = compiling.ways(points.of_preset("resolution", torch.device("cuda")))
    assert len({compiling.name(way) for way in every}) == len(every)
    assert compiling.compiled_before() == []
    found = compiling.compile_all(every[:2], torch.device("cpu"), 0, lambda: False)
    assert sorted(found["networks"]) == compiling.compiled_before() == sorted(map(compiling.name, every[:2]))
    compiling.compile_all(every[2:3], torch.device("cpu"), 0, lambda: False)
    assert compiling.compiled_before() == sorted(map(compiling.name, every[:3]))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    assert compiling.compiled_before() == []


def test_a_damaged_list_is_no_list_and_is_replaced(cache):
    every = compiling.ways(points.of_preset("resolution", torch.device("cuda")))
    for damaged in (b'["a", "b', b"", b"\xff\x00", b"{}", b"[1]"):
        compiling.mark().write_bytes(damaged)
        assert compiling.compiled_before() == []
    compiling.compile_all(every[:1], torch.device("cpu"), 0, lambda: False)
    assert compiling.compiled_before() == [compiling.name(every[0])]


def test_what_did_not_end_in_time_is_not_said_to_be_compiled(cache):
    every = compiling.ways(points.of_preset("resolution", torch.device("cuda")))
    found = compiling.compile_all(every[:1], torch.device("cpu"), 0, lambda: True)
    assert list(found["failed"].values()) == ["not in time"] and compiling.compiled_before() == []
