"""What a point's process measures: checked against float64 and at its own size, and never silent about a difference."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

import models
from results import published
from suites.benchmark.sweep import measure, peers, points
from suites.benchmark.sweep.points import Point
from suites.benchmark.timing import StopWatch

CPU = torch.device("cpu")


class Side(NamedTuple):
    height: int
    width: int


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measure, "SMALL", {"inference": ((16, 16), 1), "training": ((16, 16), 2)})
    monkeypatch.setattr(measure, "READINGS", 5)


def subject(point: Point) -> measure.Subject:
    return measure.Subject(point, CPU, StopWatch(CPU))


def tiny(side: int = 24, **rest) -> Point:
    return Point("mambairv2-tiny", side, side, "fp32", "cpu", **rest)


def test_a_row_says_what_its_result_was_held_against():
    row = subject(tiny()).measure(tiny())
    check = row["check"]
    assert row["status"] == "ok" and len(row["times_ms"]) == 5 and row["params"] == 9904
    assert "float64" in check["small"]["reference"] and check["small"]["size"] == "16x16"
    assert check["small"]["share_given"] == check["small"]["share_free"] == 1
    assert "scan in chunks" in check["here"]["reference"] and check["here"]["share_strict"] == 1


def test_beyond_what_is_quick_to_compare_the_row_says_that_nothing_was_compared(monkeypatch):
    monkeypatch.setattr(measure, "CHUNKED", 16 * 16)
    row = subject(tiny()).measure(tiny(), proved={"ok": True, "by": "another process"})
    assert row["check"]["small"]["by"] == "another process"
    assert row["check"]["here"] == {"reference": None, "finite": True, "ok": True}


def test_training_is_checked_by_its_gradients():
    point = tiny(16, mode="training", batch=2)
    row = subject(point).measure(point)
    assert row["status"] == "ok" and row["check"]["here"]["share_free"] == 1


@pytest.mark.parametrize("where, words", [("small", "float64"), ("here", "at this size")])
def test_a_wrong_result_has_no_time(monkeypatch, where, words):
    made = subject(tiny())
    if where == "here":
        made.prove(tiny())
    whole = made.model.call
    monkeypatch.setattr(made.model, "call", lambda p, backend, *rest: whole(p, backend, *rest) + (backend == "cpu"))
    row = made.measure(tiny())
    assert row["status"] == "differs" and words in row["reason"] and row["median_ms"] is None


def test_memory_that_is_not_there_is_a_row(monkeypatch):
    def none(self, *_):
        raise torch.OutOfMemoryError("tried to allocate 3.00 GiB")

    monkeypatch.setattr(measure.BenchmarkModel, "call", none)
    row = subject(tiny()).measure(tiny())
    assert row["status"] == "oom" and "3.00 GiB" in row["reason"]


def test_traffic_counts_what_operators_read_and_write_and_no_views():
    x, y = torch.ones(8, 4), torch.empty(4, 8)
    with measure.Traffic() as traffic:
        z = x.t() * y  # reads twice 128 bytes, writes 128
        z[:].add_(1.0)  # reads and writes 128 in place, counted once: one tensor
        torch.empty(1000)
    assert traffic.bytes == 4 * 128


def test_every_method_of_the_published_tables_is_swept_or_missing_with_a_reason():
    tables = published.load(published.FOLDER).tables
    methods = {method for name in ("table3", "table4") for method in tables[name]["method"]}
    ours = {row["method"] for name in ("table3", "table4") for row in tables[name].to_dict("records") if row["model"]}
    assert methods <= ours | {peer.method for peer in peers.PEERS.values()} | set(peers.MISSING)


def test_a_preset_names_no_point_twice_and_begins_with_what_matters_most():
    found = points.of_preset("resolution", torch.device("cuda"))
    assert len({point.key for point in found}) == len(found)
    assert [point.subject for point in found[:1]] == ["mambairv2-light"] and found[-1].subject in peers.MISSING
    assert {(point.height, point.width) for point in found} >= set(points.SIZES)
    swept = {point.subject for point in found}
    assert swept >= {"mambairv2-base", "mambair-light", "mambairv2-light scans=4", "mambairv2-light sgn=off", "hat"}
    (light, *_) = [p for p in points.of_preset("ntire", CPU) if p.subject == "mambairv2-light"]
    assert (light.task, light.height, light.width, light.precision) == ("sr-x4", 256, 256, "fp32")


@pytest.mark.parametrize("name", peers.PEERS)
def test_peers_have_the_parameters_that_were_published(name):
    pytest.importorskip("spandrel")
    peer = peers.PEERS[name]
    network = peer.build(2)
    assert isinstance(network, nn.Module) and models.capabilities_of(network).upscale == 2
    count = peer.parameters(network)
    tables = published.load(published.FOLDER).tables
    for table in ("table3", "table4"):
        rows = tables[table]
        rows = rows[(rows["method"] == peer.method) & (rows["task"] == "sr-x2") & (rows["metric"] == "params")]
        for value in rows["value"]:
            assert count == pytest.approx(published.number(value), rel=peers.DIFFERS.get(name, 0.005))


def test_a_set_is_measured_picture_by_picture_and_keys_of_other_points_stay(monkeypatch):
    monkeypatch.setattr(points.manifest, "read", lambda name: {s: Side(*s) for s in ((64, 80), (48, 64), (32, 90))})
    point = Point("mambairv2-tiny", 32, 40, "fp32", "cpu", pictures="own")
    assert point.sizes == [(16, 45), (24, 32), (32, 40)] and points.inputs_of("own", 4) == [(8, 22), (12, 16), (16, 20)]
    made, seen = subject(point), []
    monkeypatch.setattr(measure, "SPENT_S", {"cpu": 0.0})
    whole = made.model.call
    monkeypatch.setattr(made.model, "call", lambda *how: seen.append(made.model.batch.lq.shape[-2:]) or whole(*how))
    monkeypatch.setattr(made.watch, "read", lambda call: call() is None and math.prod(made.model.batch.lq.shape[-2:]))
    row = made.measure(point, proved={"ok": True})
    assert row["status"] == "ok" and row["times_ms"] == 2 * [(16 * 45 + 24 * 32 + 32 * 40) / 3]
    assert row["of_pictures"] == 3 and row["median_ms"] == row["times_ms"][0]
    assert [tuple(size) for size in seen[1:-1]] == 3 * [(16, 45), (24, 32), (32, 40)]
    assert row["check"]["here"]["share_strict"] == 1 and row["check"]["here"]["finite"]
    assert tiny(64).key == "7ea51db57cf929b1"  # as before there were sets
    assert point.key != Point("mambairv2-tiny", 32, 40, "fp32", "cpu").key
    assert "pictures" not in tiny().facts() and point.facts()["pictures"] == "own"
