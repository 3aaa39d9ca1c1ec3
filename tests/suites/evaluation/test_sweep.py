"""Protocol alternatives: each differs from the official point in what its name says; a second run scores nothing."""

import pytest
import safetensors.torch

import models
from models.ops.common.precision import PRECISIONS
from results import records
from results.store import Store, StoreError
from suites.data import DataError
from suites.evaluation import sweep
from suites.spec import Protocol, SpecError, Task

TASK = Task("sr", 2)
OFFICIAL = Protocol.official(TASK).to_dict()


def test_every_point_changes_what_it_says_and_nothing_else():
    changed = {
        name: {key: value for key, value in protocol.to_dict().items() if value != OFFICIAL[key]}
        for name, protocol in sweep.points(TASK).items()
    }
    assert changed["seed-0"] == {} and changed["seed-3"] == {"seed": 3}
    assert changed["gumbel/tiles-none"] == {"tiling": "none"}
    assert changed["mean-8/tiles-official"] == {"samples": 8}
    assert changed["argmax/tiles-none"] == {"tiling": "none", "routing": "argmax"}
    assert changed["lr-pil"] == {"lr_route": "pil"} and changed["semantic"] == {"prompt_order": "semantic"}
    assert changed["bf16"] == {"precision": "bf16"}
    assert len(set(map(str, changed.values()))) == len(changed) == 16


def test_points_are_filed_once(tmp_path):
    weights = tmp_path / "tiny.safetensors"
    model = models.build("mambairv2-tiny", **TASK.network)
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    store, protocol = Store(tmp_path / "store"), Protocol.official(TASK, routing="argmax")
    identity = "mambairv2-tiny", models.weights_hash(weights), TASK, "embedded", protocol
    assert not sweep.held(store, *identity)
    options = {"weights": weights, "data": None, "results": tmp_path / "store", "device": "cpu"}
    lines = sweep.run("mambairv2-tiny", TASK, "embedded", protocol, options)
    assert "dB" in lines[0] and sweep.held(store, *identity)
    assert not sweep.held(store, *identity[:4], Protocol.official(TASK))

    folder = store.evaluation_folders()[0]
    records.write_frame(
        folder / "scores.parquet", records.read_frame(folder / "scores.parquet").assign(pixels="0" * 64)
    )
    with pytest.raises(StoreError, match=r"not stored: .* is another picture"):
        sweep.run("mambairv2-tiny", TASK, "embedded", protocol, options)


def test_what_the_device_lacks_is_left_out_and_said(tmp_path, monkeypatch):
    assert [name for name in PRECISIONS if models.unsupported(name, "cpu")] == ["tf32", "tf32x3"]
    weights = tmp_path / "tiny.safetensors"
    model = models.build("mambairv2-tiny", **TASK.network)
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    asked, told = [], []
    monkeypatch.setattr(sweep, "held", lambda *arguments: asked.append(arguments[-1].precision) or True)
    where = {"data": None, "results": tmp_path, "device": "cpu", "say": told.append}
    assert sweep.sweep("mambairv2-tiny", [f"2={weights}"], ["embedded"], **where) == 0
    assert any("left out: tf32x3" in line for line in told) and set(asked) == {"fp32", "bf16"}
    assert told[-1] == "every point is stored already"


@pytest.mark.parametrize(
    ("pair", "sets", "only", "error", "says"),
    [
        ("5=x", ["embedded"], None, SpecError, "SCALE=WEIGHTS"),
        ("2=tiny", ["Set5", "Set14"], None, DataError, "Set5.*Set14"),
        ("2=tiny", ["embedded"], "seed-9", SpecError, "seed-9.*argmax/tiles-none"),
    ],
)
def test_mistakes_are_said_before_the_first_point(tmp_path, monkeypatch, pair, sets, only, error, says):
    weights = tmp_path / "tiny.safetensors"
    safetensors.torch.save_file(models.build("mambairv2-tiny", **TASK.network).state_dict(), weights)
    where = {"data": tmp_path, "results": tmp_path / "store", "device": "cpu"}
    with pytest.raises(error, match=says):
        sweep.sweep("mambairv2-tiny", [pair.replace("tiny", str(weights))], sets, only, **where)
    with pytest.raises(SpecError, match="--jobs 0"):
        sweep.sweep("mambairv2-tiny", [f"2={weights}"], ["embedded"], **where, jobs=0)
    with pytest.raises(SpecError, match="unknown model 'nope'"):
        sweep.sweep("nope", [f"2={weights}"], ["embedded"], **where)
    assert not (tmp_path / "store").exists()
