"""Profiling on a GPU: a graph computes what its kernels do one by one, and what was recorded is what is checked."""

import pytest
import torch

from models.mambairv2 import AttentiveLayer
from suites.benchmark import breakdown, plans, profiling
from suites.benchmark.kernels import ScanCandidate, ScanCase, ScanComparison
from suites.benchmark.model import BenchmarkModel
from suites.benchmark.timing import StopWatch
from suites.spec import Task

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

CUDA = torch.device("cuda")
SR2 = Task("sr", 2)


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("given", [False, True])
def test_a_graph_has_the_bits_of_its_kernels(mode, given):
    model = BenchmarkModel("mambairv2-tiny", {}, SR2, mode, (32, 32), 2, CUDA)
    expected = model.result("fp32", "triton", "eager", given)
    for _ in range(2):  # recorded, then replayed
        found = model.result("fp32", "triton", "graph", given)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(model.graphs) == (0 if given else 1)


def test_graphs_of_several_precisions_keep_their_own_gradients():
    model = BenchmarkModel("mambairv2-tiny", {}, SR2, "training", (32, 32), 2, CUDA)
    first, _, again = (model.result(p, "triton", "graph") for p in ("fp32", "bf16", "fp32"))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_weights_that_a_recorded_step_spoilt_are_mended():
    model = BenchmarkModel("mambairv2-tiny", {}, SR2, "training", (32, 32), 2, CUDA)
    expected = model.result("fp32", "triton", "graph")
    with torch.no_grad():
        next(model.network.parameters()).fill_(torch.nan)
    assert not all(x.isfinite().all() for x in model.result("fp32", "triton", "graph"))
    found = model.result("fp32", "triton", "graph")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_rows_of_graphs_have_time_and_memory():
    plan = plans.plan(
        "mambairv2-tiny", SR2, modes="inference,training", launches="eager,graph", rounds=3, device="cuda"
    )
    for row in profiling.run([plan])["rows"]:
        assert row["status"] == "ok" and row["median_ms"] > 0 and row["peak_mib"] > 0
        assert (row["pool_mib"] is not None) == (row["launch"] == "graph")


@pytest.mark.parametrize("mode", ("forward", "forward+backward"))
def test_scans_are_checked_and_timed_both_ways(mode):
    candidates = ScanCandidate("triton", "eager"), ScanCandidate("triton", "graph")
    comparison = ScanComparison(ScanCase(mode, 2, 48, 8, 1000), candidates, CUDA, StopWatch(CUDA))
    eager, graph = comparison.run(3, lambda text: None)
    assert eager["status"] == graph["status"] == "ok" and graph["check"] == eager["check"]
    assert graph["median_ms"] > 0 and eager["median_ms"] > 0 and graph["pool_mib"] > 0


def test_the_kernels_of_a_graph_are_those_of_its_layers():
    model = BenchmarkModel("mambairv2-light", {}, SR2, "inference", (128, 128), 1, CUDA)
    layers = sum(isinstance(module, AttentiveLayer) for module in model.network.modules())
    found = breakdown.kernels(lambda: model.call("tf32x3", "triton", "graph"), CUDA, 3)
    launches = {each["kernel"]: each["launches"] for each in found}
    assert launches["_attention"] == layers and launches["_linear"] > 4 * layers
    assert all(each["ms"] > 0 for each in found)
