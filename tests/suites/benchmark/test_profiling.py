"""Profiling: what is timed is right, what cannot be timed says why, and the figures follow from the readings."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

import models
import runner
from models.ops import scan
from models.ops.common.dispatch import kernels_allowed
from reports.pages import profile
from suites.benchmark import plans, profiling, progress
from suites.benchmark.comparison import Candidate, Comparison, Entry, Point
from suites.benchmark.model import BenchmarkModel
from suites.spec import SpecError, Task

CPU = torch.device("cpu")
SR2 = Task("sr", 2)
CHOICES = {
    **{"sizes": "16x24", "modes": "inference", "batches": "1", "precisions": "fp32", "backends": "chunked"},
    **{"launches": "eager", "routing": "gumbel", "rounds": 3, "device": "cpu"},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No repeated calls, no count of MACs (tests/suites/test_cost.py)."""
    monkeypatch.setattr("suites.benchmark.timing.SHORTEST_MS", 0.0)
    monkeypatch.setattr(profiling, "count", lambda candidate, task, size: (1000, None))


def plan(variants: str = "mambairv2-tiny", **choices):
    return plans.plan(variants, SR2, **{**CHOICES, **choices})


def rows(variants: str = "mambairv2-tiny", **choices) -> list[dict]:
    return profiling.run([plan(variants, **choices)])["rows"]


# --- what is planned ---------------------------------------------------------------------------------------------


def test_every_combination_once_in_the_order_typed():
    made = plan(
        "mambairv2-tiny,mambairv2-tiny  scans=2",
        precisions="fp32,bf16",
        backends="auto,chunked,chunked",
        modes="training",
    )
    variants = ["mambairv2-tiny", "mambairv2-tiny scans=2"]
    auto = scan.resolve("auto", CPU)
    names = list(dict.fromkeys([auto, "chunked"]))
    expected = [Candidate(v, p, b, "eager") for v in variants for p in ("fp32", "bf16") for b in names]
    assert list(made.candidates) == expected and made.points == (Point("training", (16, 24), 1),)
    assert expected[-1].overrides == {"scans": 2} and expected[-1].model == "mambairv2-tiny"


def test_all_backends_are_those_that_run_here():
    names = [candidate.backend for candidate in plan(backends="all").candidates]
    assert names[:2] == ["reference", "chunked"] and "mamba_ssm" not in names
    assert all(scan.load(name).unavailable() is None for name in names)


@pytest.mark.parametrize(
    "choices, words",
    [
        ({"sizes": "64"}, "64"),
        ({"sizes": "0x8"}, "0x8"),
        ({"sizes": ","}, "--sizes"),
        ({"batches": "0"}, "--batch"),
        ({"modes": "sleeping"}, "inference"),
        ({"precisions": "fp8"}, "bf16"),
        ({"launches": "fast"}, "graph"),
        ({"routing": "soft"}, "gumbel"),
        ({"rounds": 0}, "--rounds"),
        ({"variants": "mambairv2-tiny nonsense=1"}, "nonsense"),
        ({"variants": "mambairv2-tiny scans"}, "NAME=VALUE"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(choices, words):
    with pytest.raises(SpecError, match=words):
        plan(**{"variants": "mambairv2-tiny", **choices})


def test_unknown_models_and_backends_are_refused():
    with pytest.raises(models.ModelError, match="mambairv2-tiny"):
        plan("mambairv2-tinny")
    with pytest.raises(scan.BackendError, match="unknown scan backend"):
        plan(backends="cuda")


# --- rows --------------------------------------------------------------------------------------------------------


def test_a_row_holds_what_the_contract_names_and_follows_from_its_readings():
    first, second = rows(backends="chunked,reference", batches="2")
    assert (first["model"], first["height"], first["width"], first["batch"]) == ("mambairv2-tiny", 16, 24, 2)
    assert (first["mode"], first["precision"], first["backend"], first["status"]) == (
        "inference",
        "fp32",
        "chunked",
        "ok",
    )
    times = second["times_ms"]
    assert second["runs"] == len(times) == 3 and min(times) > 0
    assert second["median_ms"] == pytest.approx(sorted(times)[1])
    assert second["p10_ms"] == pytest.approx(np.quantile(times, 0.1))
    assert second["images_per_s"] == pytest.approx(2 / sorted(times)[1] * 1e3)
    assert second["megapixels_per_s"] == pytest.approx(2 * 32 * 48 / 1e3 / sorted(times)[1])
    assert second["ratio"] == pytest.approx(np.median(np.divide(times, first["times_ms"]))) and first["ratio"] == 1
    assert second["macs"] == 2000 and second["first_call_s"] > 0
    assert second["peak_mib"] is None and second["peak_mib_reason"]


def test_candidates_and_sizes_take_turns(monkeypatch):
    called = []
    whole = Comparison.read

    def read(self, entry):
        called.append((self.point.size[1], entry.candidate.backend))
        whole(self, entry)

    monkeypatch.setattr(Comparison, "read", read)
    found = rows(backends="chunked,reference", sizes="8x8,8x16", rounds=2)
    assert called == [(8, "chunked"), (8, "reference"), (16, "chunked"), (16, "reference")] * 2
    assert [(row["width"], row["backend"]) for row in found] == called[:4]


def test_what_cannot_run_is_a_row_with_its_reason_and_the_rest_goes_on():
    found = rows(precisions="tf32,fp32", backends="mamba_ssm,chunked")
    assert [row["status"] for row in found] == ["unavailable", "unavailable", "unavailable", "ok"]
    assert "tf32" in found[1]["reason"] and "mamba_ssm" in found[2]["reason"]
    assert found[0]["median_ms"] is None and found[3]["ratio"] is None  # the baseline has no time
    (compiled,) = rows("mambair-light", launches="compiled", sizes="8x8")
    assert compiled["status"] == "unavailable" and "compile" in compiled["reason"]


@pytest.mark.parametrize("when", ["at once", "while timed"])
def test_out_of_memory_is_a_row_and_the_rest_goes_on(monkeypatch, when):
    calls = []
    whole = BenchmarkModel.call

    def call(self, precision, backend, *rest):
        calls.append(backend if kernels_allowed() else "reference")  # which scans in chunks too
        if calls[-1] == "chunked" and (when == "at once" or calls.count("chunked") > 6):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return whole(self, precision, backend, *rest)

    monkeypatch.setattr(BenchmarkModel, "call", call)
    first, second = rows(backends="chunked,cpu" if scan.load("cpu").unavailable() is None else "chunked,reference")
    assert (first["status"], first["median_ms"], first["runs"]) == ("oom", None, 0) and "memory" in first["reason"]
    assert second["status"] == "ok" and second["ratio"] is None


def test_an_unforeseen_error_of_a_kernel_is_a_row(monkeypatch):
    whole = BenchmarkModel.call

    def call(self, precision, backend, *rest):
        if precision == "bf16":
            raise RuntimeError("an illegal instruction was met")
        return whole(self, precision, backend, *rest)

    monkeypatch.setattr(BenchmarkModel, "call", call)
    first, second = rows(precisions="bf16,fp32")
    assert first["status"] == "failed" and "illegal instruction" in first["reason"] and second["status"] == "ok"


# --- what is checked ---------------------------------------------------------------------------------------------


def wrong(monkeypatch, name: str) -> None:
    """The scan with one mistake, as backend "wrong"."""
    right = scan.load("chunked")

    def forward(u, delta, A, B, C, D, delta_bias, order, table, classes, save):
        if name == "no prompt":
            table = None
        elif name == "decay":
            A = 1.01 * A
        elif name == "raster":
            order = None
        y, saved = right.forward(u, delta, A, B, C, D, delta_bias, order, table, classes, save)
        return (y.where(y != y.max(), torch.nan), saved) if name == "one NaN" else (y, saved)

    def backward(grad_y, saved, u, delta, A, B, C, D, delta_bias, order, table, classes):
        grads = list(right.backward(grad_y, saved, u, delta, A, B, C, D, delta_bias, order, table, classes))
        if name == "gradient of C":
            grads[4] = grads[4] * 0.9
        return tuple(grads)

    kept = {key: getattr(right, key) for key in ("DEVICES", "TYPES", "unavailable", "refuses", "saved_shape")}
    module = SimpleNamespace(**kept, forward=forward, backward=backward)
    monkeypatch.setitem(sys.modules, "models.ops.scan.wrong", module)
    monkeypatch.setattr("models.ops.scan.backends.PEERS", {"wrong": "models.ops.scan.wrong"})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_right_networks_are_timed(mode, precision):
    for variant in ("mambairv2-tiny", "mambairv2-tiny scans=2 ffn=conv", "mambairv2-tiny ase=off sgn=off"):
        (row,) = rows(variant, modes=mode, precisions=precision, rounds=1, sizes="16x16")
        assert row["status"] == "ok" and row["check"]["share_given"] > 0.99, row["reason"]


@pytest.mark.parametrize("mistake", ["no prompt", "decay", "raster", "one NaN"])
def test_a_wrong_scan_is_not_timed(monkeypatch, mistake):
    wrong(monkeypatch, mistake)
    (row,) = rows(backends="wrong", sizes="32x32")
    assert row["status"] == "differs" and row["median_ms"] is None and "needed" in row["reason"]
    assert row["times_ms"] == []


def test_a_wrong_gradient_is_not_timed(monkeypatch):
    wrong(monkeypatch, "gradient of C")
    inference, training = rows(backends="wrong", modes="inference,training")
    assert inference["status"] == "ok" and training["status"] == "differs"


def test_a_result_that_goes_wrong_while_it_is_timed_is_found(monkeypatch):
    readings = []
    whole, call = Comparison.read, BenchmarkModel.call
    monkeypatch.setattr(Comparison, "read", lambda self, e: (readings.append(e), whole(self, e)))

    def drifting(self, *how):
        output = call(self, *how)
        return output + 0.1 if readings and self.network.backend == "chunked" else output

    monkeypatch.setattr(BenchmarkModel, "call", drifting)
    (row,) = rows()
    assert row["status"] == "differs" and row["times_ms"] == [] and len(readings) == 3


def test_a_size_that_fits_in_no_memory_costs_no_other_size(monkeypatch, tmp_path, capsys):
    file = tmp_path / "profile.json"
    asked = ["profile", "--models", "mambairv2-tiny", "--sizes", "1000000x1000000,16x16", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["runner.py", *asked, "--device", "cpu", "--json", str(file)])
    assert runner.main() == 0
    large, good = json.loads(file.read_text())["rows"]
    assert (large["height"], large["status"], large["median_ms"]) == (1_000_000, "oom", None)
    assert large["reason"].endswith(" GiB more did not fit into the memory; try smaller --sizes or a smaller --batch")
    assert (good["height"], good["status"]) == (16, "ok") and good["median_ms"] > 0
    assert "1000000x1000000" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["runner.py", *asked[:4], "1000000x1000000", "--device", "cpu"])
    assert runner.main() == 1  # nothing was timed


def test_a_network_that_fits_on_no_gpu_is_a_row(monkeypatch):
    made = BenchmarkModel.__init__

    def fails(self, name, overrides, task, mode, size, *rest):
        if size == (8, 8):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        made(self, name, overrides, task, mode, size, *rest)

    monkeypatch.setattr(BenchmarkModel, "__init__", fails)
    assert [row["status"] for row in rows(sizes="8x8,16x16")] == ["oom", "ok"]


def test_without_a_reference_there_is_no_time(monkeypatch):
    def no_memory(self, given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(BenchmarkModel, "reference", no_memory)
    (row,) = rows()
    assert row["status"] == "unchecked" and row["median_ms"] is None and "out of memory" in row["reason"]


# --- the peer ----------------------------------------------------------------------------------------------------


# --- the forecast -----------------------------------------------------------------------------------------------------


def test_the_forecast_adds_up_what_is_left():
    made = plan(sizes="10x10,20x20", rounds=4)
    forecast = progress.Forecast(made)
    assert "not known" in forecast.text()
    forecast.read(made.points[0], Entry(made.candidates[0], times=[1000.0]))
    assert forecast.text() == "about 29 s left"  # 3 readings and 2 checks, then 4 and 2 of four times the pixels
    forecast.read(made.points[1], Entry(made.candidates[0], times=[3000.0]))
    assert forecast.text() == "about 20 s left"
    forecast.plan = replace(made, points=(made.points[0], Point("training", (8, 8), 1)))
    assert forecast.text() == "at least 5 s left"


# --- the command -------------------------------------------------------------------------------------------------


def command(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["runner.py", "profile", *arguments])
    status = runner.main()
    return status, *capsys.readouterr()


def test_the_command_prints_tables_and_writes_json(monkeypatch, capsys, tmp_path: Path):
    file = tmp_path / "p.json"
    arguments = ("--models", "mambairv2-tiny", "--sizes", "8x8,16x16,24x24", "--rounds", "5", "--device", "cpu")
    status, out, err = command(
        monkeypatch, capsys, *arguments, "--precision", "fp32,tf32", "--backends", "chunked", "--json", str(file)
    )
    assert status == 0 and "inference 8x8 x1: checking" in err
    assert max(map(len, out.splitlines())) <= 100
    for words in ("inference, 8x8, batch 1", "growth with the pixels", "cannot run: tf32", "99.9% of values within"):
        assert words in out
    stored = json.loads(file.read_text())
    assert [row["height"] for row in stored["rows"]] == [8, 8, 16, 16, 24, 24]
    assert {row["status"] for row in stored["rows"]} == {"ok", "unavailable"}
    environment = stored["environment"]
    assert environment["command"].startswith("runner.py profile --models mambairv2-tiny")
    assert environment["versions"]["torch"] == torch.__version__ and environment["started"]
    assert profile.markdown(stored) in out


def test_wrong_results_are_an_exit_status(monkeypatch, capsys):
    wrong(monkeypatch, "no prompt")
    monkeypatch.setattr(plans, "_backends", lambda names, device: ["wrong"])
    status, out, _ = command(
        monkeypatch, capsys, "--models", "mambairv2-tiny", "--sizes", "32x32", "--rounds", "1", "--device", "cpu"
    )
    assert status == 1 and "result differs" in out


def test_macs_are_blank_with_a_reason_without_a_counter(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "suites.benchmark.cost", None)
    monkeypatch.delattr("suites.benchmark.cost", raising=False)
    number, reason = profiling.count(Candidate("mambairv2-tiny", "fp32", "chunked", "eager"), SR2, (8, 8))
    assert number is None and "not installed" in reason


def test_the_bar_speaks_now_and_then_where_there_is_no_terminal(monkeypatch, tmp_path: Path):
    now = iter([100.0, 100.0, 101.0, 140.0, 140.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with open(tmp_path / "log", "w") as log:
        bar = progress.ProfileBar(Console(file=log))
        for number in range(3):
            bar(f"round {number}", number, 6, "about 3 s left")
    assert (tmp_path / "log").read_text().splitlines() == [
        "[0/6] round 0; about 3 s left",
        "[2/6] round 2; about 3 s left",
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_tells_what_a_call_takes():
    first, second = profiling.run([plan(device="cuda", backends="chunked", batches="1,8")])["rows"]
    assert 0 < first["peak_mib"] < second["peak_mib"]
