"""The scan measured alone: its check is independent of the backends, and rows say what became of each candidate."""

import numpy as np
import pytest
import torch

from suites.benchmark import kernels
from suites.benchmark.kernels import ScanCandidate, ScanCase, ScanComparison
from suites.benchmark.timing import StopWatch

CPU = torch.device("cpu")
FORWARD, BOTH = (ScanCase(mode, 2, 5, 3, 70) for mode in kernels.MODES)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("suites.benchmark.timing.SHORTEST_MS", 0.0)


def comparison(case: ScanCase, *candidates: ScanCandidate) -> ScanComparison:
    return ScanComparison(case, candidates, CPU, StopWatch(CPU))


def by_definition(t: kernels.Tensors) -> torch.Tensor:
    """y by the equations at the head of models.ops.scan, pixel by pixel."""
    y = torch.zeros_like(t.delta)
    x = torch.nn.functional.softplus(t.delta + t.bias)
    for b in range(t.u.shape[0]):
        h = torch.zeros_like(t.A[0])  # [E, N]
        for step, p in enumerate(t.order[b, 0]):
            h = (x[b, 0, p, :, None] * t.A[0]).exp() * h + (x[b, 0, p] * t.u[b, p])[:, None] * t.B[b, 0, p]
            prompt = t.table[t.classes[b, step]]  # of the pixel at this place in the order of the pixels
            y[b, 0, p] = h @ (t.C[b, 0, p] + prompt) + t.D[0] * t.u[b, p]
    return y


def test_the_reference_is_the_definition_in_float64_whatever_the_slices(monkeypatch):
    tensors = kernels.random_inputs(BOTH, CPU)
    whole = kernels.exact(tensors, True)
    assert {x.dtype for x in whole} == {torch.float64} and len(whole) == 9
    doubles = tensors.channels(slice(None))
    torch.testing.assert_close(whole[0], by_definition(doubles))
    monkeypatch.setattr(kernels, "SLICE", 2)
    for one, cut in zip(whole, kernels.exact(tensors, True), strict=True):
        torch.testing.assert_close(one, cut)
    (forward,) = kernels.exact(tensors, False)
    torch.testing.assert_close(forward, whole[0])


@pytest.mark.parametrize("case", [FORWARD, BOTH])
def test_ways_take_turns_and_rows_follow_from_their_readings(case):
    candidates = (
        ScanCandidate("chunked", "eager"),
        ScanCandidate("reference", "eager"),
        ScanCandidate("chunked", "graph"),
        ScanCandidate("mamba_ssm", "eager"),
    )
    first, second, graph, peer = comparison(case, *candidates).run(3, lambda text: None)
    assert (first["operator"], first["mode"], first["channels"], first["length"]) == ("scan", case.mode, 5, 70)
    assert first["status"] == second["status"] == "ok" and 0 < second["check"]["error"] < kernels.TOLERANCE
    assert second["median_ms"] == pytest.approx(np.median(second["times_ms"])) and second["runs"] == 3
    assert second["ratio"] == pytest.approx(np.median(np.divide(second["times_ms"], first["times_ms"])))
    for row, word in ((graph, "GPU"), (peer, "mamba_ssm")):
        assert row["status"] == "unavailable" and word in row["reason"] and row["median_ms"] is None


@pytest.mark.parametrize("wrong", range(9))
def test_a_wrong_result_or_gradient_is_not_timed(monkeypatch, wrong):
    right = kernels.scanned

    def scanned(tensors, backend, trains):
        found = right(tensors, backend, trains)
        if tensors.u.dtype == torch.float32:
            found[wrong] = found[wrong] * (1 + 1e-4)
        return found

    monkeypatch.setattr(kernels, "scanned", scanned)
    (row,) = comparison(BOTH, ScanCandidate("chunked", "eager")).run(1, lambda text: None)
    assert row["status"] == "differs" and row["times_ms"] == [] and row["median_ms"] is None
    assert row["check"]["error"] == pytest.approx(1e-4, rel=0.02)


def test_what_goes_wrong_while_it_is_timed_is_found(monkeypatch):
    made = comparison(FORWARD, ScanCandidate("chunked", "eager"))
    read = ScanComparison.read

    def spoiling(self, entry):
        found = read(self, entry)
        self.tensors.u.mul_(2)  # what is timed from now on computes something else
        return found

    monkeypatch.setattr(ScanComparison, "read", spoiling)
    (row,) = made.run(2, lambda text: None)
    assert row["status"] == "differs" and row["times_ms"] == []


def test_without_float64_there_is_no_time(monkeypatch):
    def short(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(kernels, "exact", short)
    (row,) = comparison(FORWARD, ScanCandidate("chunked", "eager")).run(1, lambda text: None)
    assert row["status"] == "unchecked" and "out of memory" in row["reason"] and row["times_ms"] == []


def test_inputs_that_fit_in_no_memory_are_a_row():
    case = ScanCase("forward", 1, 48, 8, 10**12)
    (row,) = comparison(case, ScanCandidate("chunked", "eager")).run(1, lambda text: None)
    assert row["status"] == "oom" and row["reason"].startswith("the input:") and row["median_ms"] is None
