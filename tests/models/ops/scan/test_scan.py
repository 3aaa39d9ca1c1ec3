"""The attentive scan, forward and every gradient, against a plain float64 loop that PyTorch differentiates."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from models.ops.scan import Prompt, attentive_scan, available, chunked, cpu

# Triton's interpreter takes minutes for these sizes: test_triton.py has small ones, tests/gpu/test_scan.py all.
USABLE = [name for name, reason in available().items() if reason is None and name != "triton"]
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
GRADIENTS = (*NAMES, "table", "soft")


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of tiny operations: a second thread would only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(batch, directions, length, channels, states, classes=5, scale=1.0, prompt_order="semantic", seed=0):
    """Random float64 inputs as a dict; order is a permutation for every image and direction."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    order = torch.stack([torch.randperm(length, generator=g) for _ in range(batch * directions)])
    order = order.view(batch, directions, length)
    return {
        "u": normal(batch, length, channels),
        "delta": normal(batch, directions, length, channels) * scale,
        "A": -torch.exp(normal(directions, channels, states) * 0.7),
        "B": normal(batch, directions, length, states),
        "C": normal(batch, directions, length, states),
        "D": normal(directions, channels),
        "delta_bias": normal(directions, channels),
        "order": order,
        "table": normal(classes, states),
        "classes": torch.randint(classes, (batch, length), generator=g),
        "soft": torch.softmax(normal(batch, length, classes), -1),
        "at": {"semantic": order, "raster": None, "reversed raster": order.argsort(2).flip(2)}[prompt_order],
    }


def truth(x, memory=None):
    """The definition, pixel by pixel, in the dtype of the inputs; straight-through written out as in the paper."""
    batch, directions, length, channels = x["delta"].shape
    onehot = F.one_hot(x["classes"], x["table"].shape[0]).to(x["u"].dtype)
    prompts = (onehot - x["soft"].detach() + x["soft"]) @ x["table"]  # [B, L, N]
    rows = []
    for b, k in itertools.product(range(batch), range(directions)):
        h = torch.zeros_like(x["A"][k])
        ys = [None] * length
        for i in range(length):
            if memory and i % memory == 0:
                h = torch.zeros_like(h)
            p = int(x["order"][b, k, i]) if x["order"] is not None else i
            q = i if x["at"] is None else int(x["at"][b, k, i])
            t = x["delta"][b, k, p] + x["delta_bias"][k]
            step = torch.where(t > 20, t, torch.log1p(torch.exp(t.clamp(max=20))))
            h = torch.exp(step[:, None] * x["A"][k]) * h + (step * x["u"][b, p])[:, None] * x["B"][b, k, p]
            ys[p] = h @ (x["C"][b, k, p] + prompts[b, q]) + x["D"][k] * x["u"][b, p]
        rows.append(torch.stack(ys))
    return torch.stack(rows).view(batch, directions, length, channels)


def scan(x, backend):
    prompt = Prompt(x["table"], x["classes"], x["soft"], x["at"])
    return attentive_scan(*(x[n] for n in NAMES), order=x["order"], prompt=prompt, backend=backend)


def leaves(x, dtype, wanted=GRADIENTS):
    return {
        n: t.detach().clone().to(dtype).requires_grad_(n in wanted) if t is not None and t.is_floating_point() else t
        for n, t in x.items()
    }


def gradients(x, backend, weights):
    y = scan(x, backend)
    (y * weights.to(y.dtype)).sum().backward()
    return y.detach(), {n: x[n].grad for n in GRADIENTS}


def weights_for(x):
    return torch.randn(x["delta"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


CASES = [  # batch, directions, length, channels, states, classes, delta scale, prompt order
    (1, 1, 67, 7, 4, 5, 1.0, "semantic"),
    (2, 2, 131, 19, 8, 5, 8.0, "raster"),
    (1, 4, 33, 48, 16, 3, 40.0, "reversed raster"),
    (2, 1, 65, 33, 8, 64, 40.0, "semantic"),
    (1, 1, 1, 5, 3, 2, 1.0, "raster"),
    (1, 2, 64, 16, 10, 5, 8.0, "semantic"),
    (1, 1, 35, 17, 64, 5, 1.0, "raster"),
    (1, 1, 34, 301, 7, 5, 8.0, "semantic"),  # more channels than partial sums of the compiled backend
]
CASE_IDS = ["-".join(str(part) for part in case).replace(" ", "_") for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_forward_and_every_gradient(case):
    *shape, classes, scale, prompt_order = case
    x = make(*shape, classes=classes, scale=scale, prompt_order=prompt_order)
    weights = weights_for(x)
    exact = leaves(x, torch.float64)
    y = truth(exact)
    (y * weights).sum().backward()
    for backend in USABLE:
        ours, grads = gradients(leaves(x, torch.float32), backend, weights)
        assert ours.dtype == torch.float32
        for name, got, expected in [("y", ours, y.detach()), *((n, grads[n], exact[n].grad) for n in GRADIENTS)]:
            assert got.shape == expected.shape and torch.isfinite(got).all(), (backend, name)
            error, largest = float((got.double() - expected).abs().max()), float(expected.abs().max())
            assert error <= 2e-6 * largest, f"{backend} {name}: {error:.1e} of {largest:.1e}"


@pytest.mark.parametrize("backend", [name for name in USABLE if name != "reference"])
def test_long_sequences_keep_their_accuracy(backend):
    """Sums over thousands of steps, compared with float64 of the backend that the short cases tie to the definition."""
    x = make(1, 1, 5003, 24, 8, seed=3)
    weights = weights_for(x)
    y, exact = gradients(leaves(x, torch.float64), "chunked", weights)
    ours, grads = gradients(leaves(x, torch.float32), backend, weights)
    assert float((ours - y).abs().max() / y.abs().max()) < 1e-6
    for name in GRADIENTS:
        assert float((grads[name] - exact[name]).abs().max() / exact[name].abs().max()) < 3e-6, name


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_float64_agrees_with_the_definition(backend):
    x = make(2, 2, 130, 5, 4, scale=8)
    exact = leaves(x, torch.float64)
    y = truth(exact)
    weights = weights_for(x)
    (y * weights).sum().backward()
    ours, grads = gradients(leaves(x, torch.float64), backend, weights)
    torch.testing.assert_close(ours, y.detach(), rtol=1e-11, atol=1e-11)
    for name in GRADIENTS:
        torch.testing.assert_close(grads[name], exact[name].grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_gradcheck(backend, monkeypatch):
    """Finite differences; `soft` is left out because straight-through is not the derivative of the value."""
    monkeypatch.setattr(chunked, "CHUNK", 4)
    monkeypatch.setattr(chunked, "REPLAY_BYTES", 400)  # several groups of chunks
    x = leaves(make(1, 2, 9, 2, 3), torch.float64, wanted=(*NAMES, "table"))
    names = (*NAMES, "table")

    def function(*tensors):
        return scan({**x, **dict(zip(names, tensors, strict=True)), "soft": None}, backend)

    assert torch.autograd.gradcheck(function, [x[n] for n in names])


# Closed forms


@pytest.mark.parametrize("backend", USABLE)
def test_without_decay_the_scan_is_a_cumulative_sum(backend):
    length, channels = 77, 6
    u = torch.randn(1, length, channels, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(1, 1, length, 1)
    bias = torch.full((1, channels), math.log(math.e - 1))  # softplus(bias) = 1
    zeros = torch.zeros(1, 1, length, channels)
    y = attentive_scan(
        u, zeros, torch.zeros(1, channels, 1), ones, ones, torch.zeros(1, channels), bias, backend=backend
    )
    torch.testing.assert_close(y[:, 0], u.cumsum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", USABLE)
def test_an_impulse_decays_geometrically(backend):
    length, decay = 40, 0.8
    u = torch.zeros(1, length, 1)
    u[0, 0] = 1
    ones = torch.ones(1, 1, length, 1)
    bias = torch.full((1, 1), math.log(math.e - 1))
    A = torch.full((1, 1, 1), math.log(decay))
    y = attentive_scan(u, torch.zeros_like(ones), A, ones, ones, torch.full((1, 1), 3.0), bias, backend=backend)
    expected = decay ** torch.arange(length, dtype=torch.float32)
    expected[0] += 3  # D u
    torch.testing.assert_close(y.flatten(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", USABLE)
def test_softplus_is_linear_far_up_and_vanishes_far_down(backend):
    """One step, no states' memory: y = softplus(delta). Above 20 PyTorch's softplus is the identity."""
    delta = torch.tensor([-1e4, -100.0, -88.0, -20.0, -1e-3, 0.0, 1.0, 19.99, 20.01, 88.0, 1e4])
    one = torch.ones(1, 1, 1, 1)
    inputs = torch.ones(1, 1, 11), delta.view(1, 1, 1, 11).requires_grad_(), -torch.ones(1, 11, 1), one, one
    y = attentive_scan(*inputs, torch.zeros(1, 11), torch.zeros(1, 11), backend=backend).flatten()
    torch.testing.assert_close(y, F.softplus(delta), rtol=3e-7, atol=1e-37)
    grad = torch.autograd.grad(y.sum(), inputs[1])[0].flatten()
    torch.testing.assert_close(grad, torch.sigmoid(delta), rtol=1e-6, atol=1e-37)


# Orders and prompts


@pytest.mark.parametrize("backend", USABLE)
def test_order_is_a_gather_before_and_a_scatter_after(backend):
    x = leaves(make(2, 2, 50, 5, 4), torch.float32, wanted=())
    order = x["order"]
    y = attentive_scan(*(x[n] for n in NAMES), order=order, backend=backend)
    for b, k in itertools.product(range(2), range(2)):
        o = order[b, k]
        sub = x["u"][b, o], x["delta"][b, k, o], x["A"][k], x["B"][b, k, o], x["C"][b, k, o], x["D"][k]
        u, delta, A, B, C, D = (t[None] if n in "AD" else t[None, None] for n, t in zip("udABCD", sub, strict=True))
        plain = attentive_scan(u[0], delta, A, B, C, D, x["delta_bias"][k][None], backend=backend)
        torch.testing.assert_close(y[b, k][o], plain[0, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", USABLE)
def test_prompts_follow_their_pixel_or_the_raster(backend):
    x = leaves(make(1, 2, 40, 5, 4, prompt_order="raster"), torch.float32, wanted=())
    prompts = x["table"][x["classes"]].unsqueeze(1).expand(-1, 2, -1, -1)  # of pixels
    semantic = attentive_scan(*(x[n] + prompts if n == "C" else x[n] for n in NAMES), order=x["order"], backend=backend)
    torch.testing.assert_close(scan({**x, "at": x["order"]}, backend), semantic, rtol=1e-5, atol=1e-5)
    moved = torch.empty_like(prompts).contiguous()  # step i adds the prompt of pixel i to the pixel it visits
    moved.scatter_(2, x["order"].unsqueeze(3).expand_as(moved), prompts)
    raster = attentive_scan(*(x[n] + moved if n == "C" else x[n] for n in NAMES), order=x["order"], backend=backend)
    torch.testing.assert_close(scan(x, backend), raster, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(raster, semantic, atol=1e-2)


@pytest.mark.parametrize("backend", USABLE)
def test_the_prompt_gradient_trains_the_router_only(backend):
    """`soft` moves no output, and without it the table still learns."""
    x = leaves(make(1, 2, 30, 5, 4), torch.float32)
    y = scan(x, backend)
    assert torch.equal(y, scan({**x, "soft": x["soft"] * 0.5}, backend))
    with_soft = torch.autograd.grad(y.sum(), x["table"])[0]
    without = torch.autograd.grad(scan({**x, "soft": None}, backend).sum(), x["table"])[0]
    assert torch.equal(with_soft, without) and without.abs().max() > 0


# Determinism


@pytest.mark.parametrize("backend", USABLE)
def test_two_runs_give_the_same_bits(backend):
    x = make(2, 2, 300, 20, 8)
    weights = weights_for(x)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (gradients(leaves(x, torch.float32), backend, weights) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first[0], second[0])
    for name in GRADIENTS:
        assert torch.equal(first[1][name], second[1][name]), name


def test_the_compiled_scan_does_not_depend_on_the_number_of_threads(monkeypatch):
    if "cpu" not in USABLE:
        pytest.skip(available()["cpu"])
    monkeypatch.setattr(cpu, "GRAIN", 1)
    x = leaves(make(2, 1, 200, 70, 8), torch.float32, wanted=())
    args = [x[n] for n in NAMES]
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y, saved = cpu.forward(*args, x["order"], None, None, True)
        results.append((y, *cpu.backward(y.cos(), saved, *args, x["order"], None, None)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# Dtypes, layouts, and what asks for gradients


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("narrow", [GRADIENTS, ("u", "delta", "B", "C"), ("delta", "C"), ("u",)], ids=str)
def test_half_precision_is_scanned_in_float32_and_rounded_once(backend, half, narrow):
    x = make(1, 2, 37, 7, 4)
    x = {**x, **{n: x[n].to(half) for n in narrow}}
    weights = weights_for(x).to(half)
    wide = leaves(x, torch.float32)
    x = {n: leaves({n: t}, half if n in narrow else torch.float32)[n] for n, t in x.items()}
    expected, wide_grads = gradients(wide, backend, weights)
    y, grads = gradients(x, backend, weights)
    kind = half if "u" in narrow else torch.float32
    assert y.dtype == kind and torch.equal(y, expected.to(kind))
    for name in GRADIENTS:
        kind = half if name in narrow else torch.float32
        assert grads[name].dtype == kind and torch.equal(grads[name], wide_grads[name].to(kind)), name
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scan(x, backend), y)


@pytest.mark.parametrize("backend", USABLE)
def test_bfloat16_against_float64(backend):
    """Half a unit in the last place of what is stored in bfloat16."""
    x, narrow = make(2, 1, 67, 9, 5), ("u", "delta", "B", "C")
    x = {**x, **{n: x[n].bfloat16().double() for n in narrow}}
    weights = weights_for(x).bfloat16().double()
    exact = leaves(x, torch.float64)
    y = truth(exact)
    (y * weights).sum().backward()
    x = {n: leaves({n: t}, torch.bfloat16 if n in narrow else torch.float32)[n] for n, t in x.items()}
    ours, grads = gradients(x, backend, weights)
    for name, got, expected in [("y", ours, y.detach()), *((n, grads[n], exact[n].grad) for n in GRADIENTS)]:
        rounded = name in ("y", *narrow)
        assert got.dtype == (torch.bfloat16 if rounded else torch.float32), name
        allowed = 2e-6 * expected.abs().max() + (2**-8 * expected.abs() if rounded else 0)
        assert ((got.double() - expected).abs() <= allowed).all(), name


@pytest.mark.parametrize("backend", USABLE)
def test_any_memory_layout(backend):
    x = leaves(make(2, 2, 21, 9, 4), torch.float32)
    weights = weights_for(x)
    y, grads = gradients(x, backend, weights)
    strided = {}
    for name, t in leaves(x, torch.float32, wanted=()).items():
        if name in ("B", "C"):  # a slice of a wider projection, as the network makes it
            strided[name] = torch.cat([t, t], -1)[..., : t.shape[-1]].requires_grad_()
        elif t.is_floating_point():  # channels-first memory
            strided[name] = t.transpose(-1, -2).contiguous().transpose(-1, -2).requires_grad_()
        else:
            strided[name] = torch.stack([t, t], -1)[..., 0]
        assert not strided[name].is_contiguous()
    y_strided, grads_strided = gradients(strided, backend, weights)
    assert torch.equal(y, y_strided)
    for name in GRADIENTS:
        torch.testing.assert_close(grads_strided[name], grads[name], rtol=1e-6, atol=1e-6)
    # the gradient of y may be strided too: an expanded scalar
    torch.testing.assert_close(
        torch.autograd.grad(scan(x, backend).sum(), x["u"])[0],
        torch.autograd.grad((scan(x, backend) * torch.ones_like(y)).sum(), x["u"])[0],
    )


@pytest.mark.parametrize("backend", USABLE)
def test_gradients_only_where_they_are_asked_for(backend):
    x = make(1, 1, 20, 5, 4)
    weights = weights_for(x)
    _, everything = gradients(leaves(x, torch.float32), backend, weights)
    for wanted in GRADIENTS:
        _, grads = gradients(leaves(x, torch.float32, wanted=(wanted,)), backend, weights)
        assert [n for n in GRADIENTS if grads[n] is not None] == [wanted]
        assert torch.equal(grads[wanted], everything[wanted])
    with torch.no_grad():
        assert not scan(leaves(x, torch.float32), backend).requires_grad


@pytest.mark.parametrize("backend", USABLE)
def test_nan_is_passed_on(backend):
    """A diverged network must show."""
    x = leaves(make(1, 1, 20, 5, 4), torch.float32, wanted=())
    for name in ("u", "delta"):
        broken = {**x, name: x[name].clone()}
        broken[name][..., 10, 2] = math.nan
        y = scan({**broken, "order": torch.arange(20).view(1, 1, 20)}, backend)
        assert torch.isnan(y[0, 0, 10:, 2]).all() and not torch.isnan(y[0, 0, :, :2]).any()
        assert not torch.isnan(y[0, 0, :10]).any()
