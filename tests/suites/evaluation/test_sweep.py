"""Protocol alternatives: each differs from the official point in what its name says; a second run scores nothing."""

from argparse import ArgumentParser
from pathlib import Path

import safetensors.torch

import models
from models.ops.common.precision import PRECISIONS
from results.store import Store
from suites.commandline import add_data
from suites.evaluation import sweep
from suites.spec import Protocol, Task

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


def test_what_the_device_lacks_is_left_out_and_said(tmp_path, monkeypatch, capsys):
    assert [name for name in PRECISIONS if models.unsupported(name, "cpu")] == ["tf32", "tf32x3"]
    weights = tmp_path / "tiny.safetensors"
    model = models.build("mambairv2-tiny", **TASK.network)
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    asked = []
    monkeypatch.setattr(sweep, "held", lambda *arguments: asked.append(arguments[-1].precision) or True)
    line = ["alternatives", "mambairv2-tiny", f"2={weights}", "--sets", "embedded", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", line)
    sweep.main()
    assert "left out: tf32x3" in capsys.readouterr().out and set(asked) == {"fp32", "bf16"}


def test_the_folder_of_datasets_may_be_named_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMBAIR_BENCH_DATA", str(tmp_path))
    parser = ArgumentParser()
    add_data(parser)
    assert parser.parse_args([]).data == tmp_path
    assert parser.parse_args(["--data", "own"]).data == Path("own")
