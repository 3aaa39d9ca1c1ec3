"""The decay of a scan against closed forms, and against sums over every pair of steps."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import models
from models.ops.scan import Prompt, attentive_scan
from suites.analysis import decay
from suites.analysis.decay import Decay, Steps
from suites.analysis.recording import ScanCall, recorded

pytestmark = pytest.mark.usefixtures("one_thread")


def constant(length: int, rate: float) -> Steps:
    """x = 1, A = -rate, B = C = u = 1, D = 0: h_i = (1 - q^(i + 1)) / (1 - q) with q = exp(-rate), i from 0."""
    one = torch.ones(length, 1, dtype=torch.float64)
    return Steps(u=one, x=one, A=-rate * one[:1], B=one, C=one, D=0 * one[0])


@pytest.mark.parametrize("length", [1, 7, 50, 64])
def test_states_of_a_constant_scan_are_a_geometric_series(length):
    scan = constant(length, 0.3)
    h = decay.states(scan.x, scan.u, scan.A, scan.B)[:, 0, 0]
    q = np.exp(-0.3)
    torch.testing.assert_close(h.numpy(), (1 - q ** np.arange(1, length + 1)) / (1 - q), rtol=1e-13, atol=0)


def test_a_constant_scan_has_geometric_shares():
    length, q = 200, np.exp(-0.05)
    found = decay.sums(constant(length, 0.05), (1, 4, 16, 256), positions=10**6, seed=0)
    i = np.arange(length)
    state = (1 - q ** (i + 1)) / (1 - q)
    for k in (1, 4, 16):
        far = np.where(i >= k, q**k * (1 - q ** np.maximum(i - k + 1, 0)) / (1 - q), 0)
        assert found[k].decays / found[k].decay_count == pytest.approx(q**k, rel=1e-12)
        assert found[k].far / (found[k].far + found[k].near) == pytest.approx(far.sum() / state.sum(), rel=1e-12)
        assert found[k].far_squares == pytest.approx((far**2).sum(), rel=1e-12)
    assert found[256].far == 0 and found[256].decay_count == 0 and found[256].positions == 0


def pairs(scan: Steps, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(s(k), s) [L, E] by the sum over all pairs of steps j <= i of <C_i, exp(A x_{j+1..i}) x_j B_j> u_j."""
    length, channels = scan.x.shape
    far, state = torch.zeros(2, length, channels, dtype=torch.float64)
    for i in range(length):
        for j in range(i + 1):
            decayed = torch.exp(scan.x[j + 1 : i + 1].sum(0).unsqueeze(-1) * scan.A)  # [E, N]
            part = (scan.C[i] * decayed * scan.B[j]).sum(-1) * scan.x[j] * scan.u[j]
            state[i] += part
            if i - j >= k:
                far[i] += part
    return far, state


def random_call(sort: bool) -> ScanCall:
    """A call of the operator on 30 pixels, 5 channels, 3 states, with prompts."""
    rng = torch.Generator().manual_seed(1)
    u, delta = torch.randn(1, 30, 5, generator=rng), torch.randn(1, 1, 30, 5, generator=rng)
    B, C = torch.randn(2, 1, 1, 30, 3, generator=rng).unbind()
    A, D, bias = -torch.rand(1, 5, 3, generator=rng), torch.randn(1, 5, generator=rng), torch.zeros(1, 5)
    order = torch.randperm(30, generator=rng)[None, None] if sort else None
    prompt = Prompt(torch.randn(4, 3, generator=rng), torch.randint(4, (1, 30), generator=rng))
    calls: list[ScanCall] = []
    with recorded(calls.append):
        attentive_scan(u, delta, A, B, C, D, bias, order=order, prompt=prompt)
    return calls[0]


@pytest.mark.parametrize("sort", [False, True])
def test_sums_are_those_over_all_pairs_of_steps(sort):
    call = random_call(sort)
    ((_, scan),) = decay.scanned(call, "network" if sort else "raster")
    for k, found in decay.sums(scan, (1, 4, 16), positions=30, seed=0).items():
        far, state = pairs(scan, k)
        assert found.far == pytest.approx(float(far.abs().sum()), rel=1e-10)
        assert found.near == pytest.approx(float((state - far).abs().sum()), rel=1e-10)
        assert found.state_squares == pytest.approx(float(state.square().sum()), rel=1e-10)


@pytest.mark.parametrize("sort", [False, True])
def test_taken_apart_a_scan_gives_the_output_of_the_operator(sort):
    call = random_call(sort)
    ((_, scan),) = decay.scanned(call, "network" if sort else "raster")
    h = decay.states(scan.x, scan.x * scan.u, scan.A, scan.B)
    y = torch.einsum("ln,len->le", scan.C, h) + scan.D * scan.u
    expected = call.y[0, 0] if call.order is None else call.y[0, 0][call.order[0, 0]]
    torch.testing.assert_close(y.float(), expected, rtol=1e-4, atol=1e-5)


def test_groups_of_channels_change_nothing(monkeypatch):
    ((_, scan),) = decay.scanned(random_call(True), "network")
    whole = decay.sums(scan, (4,), positions=10, seed=3)[4]
    monkeypatch.setitem(decay.STATE_BYTES, "cpu", 8 * 30 * 3 * 2)
    parts = decay.sums(scan, (4,), positions=10, seed=3)[4]
    assert {**vars(parts)} == pytest.approx(vars(whole), rel=1e-12)


def test_what_a_cut_state_changes_is_the_part_from_beyond_it():
    """With memory 1 a scan keeps its own step alone: the change of its output is s(1)."""
    call = random_call(False)
    prompt = Prompt(call.table, call.classes)
    cut = attentive_scan(call.u, call.delta, call.A, call.B, call.C, call.D, call.bias, prompt=prompt, memory=1)
    ((_, scan),) = decay.scanned(call, "raster")
    found = decay.sums(scan, (1,), positions=30, seed=0)[1]
    assert float((call.y - cut).square().sum()) == pytest.approx(found.far_squares, rel=1e-4)


def test_every_layer_of_a_network_has_a_row_per_order_and_step():
    network = models.build("mambairv2-tiny", upscale=2, routing="argmax").eval()
    found = Decay(layers=2, steps=(1, 16), positions=50)
    with torch.no_grad(), recorded(found.add):
        network(torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(0)))
    frame = found.frame()
    assert list(frame.columns) == list(decay.COLUMNS)
    keys = frame[["layer", "order", "steps"]].itertuples(index=False, name=None)
    assert list(keys) == [(layer, order, k) for layer in (0, 1) for order in ("network", "raster") for k in (1, 16)]
    assert (frame["length"] == 128).all() and (frame["outputs"] == 50).all()
    assert frame[["decay", "share"]].to_numpy().min() > 0 and frame[["decay", "share"]].to_numpy().max() < 1


def test_softplus_of_delta_is_what_the_scan_uses():
    call = random_call(False)
    ((_, scan),) = decay.scanned(call, "raster")
    torch.testing.assert_close(scan.x, F.softplus(call.delta[0, 0].double() + call.bias[0].double()))
