"""Linear layers in kernels: against float64, forward and every gradient. On a GPU, else in Triton's interpreter."""

import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.ops.linear import linear, linear_forked

pytest.importorskip("triton", reason="needs Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or Triton's interpreter (TRITON_INTERPRET=1)", allow_module_level=True)


@pytest.fixture
def products(monkeypatch):
    """Kernels also for tensors on a CPU, with products of a kind; fresh memory holds values no test would pass with."""
    kind = ["tf32x3"]
    monkeypatch.setattr("models.ops.common.dispatch.has_kernels", lambda x: x.dtype != torch.float64)
    monkeypatch.setattr("models.ops.linear.kernel_products", lambda x: kind[0])
    torch.use_deterministic_algorithms(True)
    yield kind
    torch.use_deterministic_algorithms(False)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(DEVICE)


CASES = {  # rows, features in and out, what is there
    "bare": ((5, 19), 3, 7, ()),
    "bias": ((2, 67), 24, 20, ("bias",)),
    "norm": ((3, 43), 48, 70, ("bias", "norm")),
    "norm and GELU": ((130,), 24, 40, ("bias", "norm", "gelu")),
    "GELU": ((1, 1), 5, 3, ("bias", "gelu")),
    "norm and GELU, more features": ((9,), 70, 24, ("bias", "norm", "gelu")),
    "all features of a block": ((37,), 16, 33, ("bias", "norm")),
    "residual": ((2, 3, 11), 20, 24, ("bias", "residual")),
    "both": ((131,), 24, 48, ("bias", "residual", "skip")),
    "norm, residual": ((9, 15), 96, 33, ("bias", "norm", "residual")),
    "wide": ((70,), 150, 80, ("bias", "residual", "skip")),
    "wide, bias": ((3, 21), 140, 24, ("bias",)),
    "wide, norm and GELU": ((2, 33), 130, 20, ("bias", "norm", "gelu")),
}


def problem(case, dtype: torch.dtype) -> tuple[dict, nn.LayerNorm | None]:
    rows, features, out, there = CASES[case]
    tensors = {"x": normal(*rows, features) * 2 + 1, "weight": normal(out, features) * features**-0.5}
    tensors |= {"bias": normal(out)} if "bias" in there else {}
    tensors |= {"residual": normal(*rows, out, seed=1)} if "residual" in there else {}
    tensors |= {"skip": normal(*rows, out, seed=2), "scale": normal(out, seed=3)} if "skip" in there else {}
    norm = None
    if "norm" in there:
        norm = nn.LayerNorm(features).to(DEVICE, dtype)
        norm.weight.data, norm.bias.data = normal(features, seed=4).to(dtype), normal(features, seed=5).to(dtype)
    return {name: t.to(dtype).requires_grad_() for name, t in tensors.items()}, norm


def run(case, dtype: torch.dtype) -> list[torch.Tensor]:
    """Output and every gradient."""
    tensors, norm = problem(case, dtype)
    y = linear(**tensors, norm=norm, gelu="gelu" in CASES[case][3])
    leaves = [*tensors.values(), *(norm.parameters() if norm else ())]
    return [y.detach(), *torch.autograd.grad(y, leaves, normal(*y.shape, seed=9).to(y))]


@pytest.mark.parametrize("case", CASES)
def test_output_and_every_gradient(case, products):
    found, exact = run(case, torch.float32), run(case, torch.float64)
    assert len(found) == len(exact)
    for a, b in zip(found, exact, strict=True):
        assert a.shape == b.shape and float((a - b).abs().max() / b.abs().max()) < 3e-6
    assert all(torch.equal(a, b) for a, b in zip(found, run(case, torch.float32), strict=True))


@pytest.mark.parametrize("batch", [1, 2])
def test_tokens_of_any_layout(batch, products):
    """What a convolution of a gray picture gives, with its channels far apart, and slices of channels."""
    weight = normal(5, 6)
    apart = normal(batch, 6, 7, 9).permute(0, 2, 3, 1)  # [B, H, W, C] of contiguous [B, C, H, W]
    for x in (apart, normal(batch, 7, 9, 8)[..., 1:7], normal(batch, 14, 9, 6)[:, ::2]):
        x = x.detach().requires_grad_()
        y = linear(x, weight)
        grad = torch.autograd.grad(y.sum(), x)[0]
        expected = x.double() @ weight.double().T
        assert float((y - expected).abs().max()) < 1e-5
        torch.testing.assert_close(grad, weight.sum(0).expand_as(grad))


def test_float64_is_what_it_says():
    tensors, norm = problem("norm and GELU", torch.float64)
    expected = F.gelu(F.layer_norm(tensors["x"], (24,), norm.weight, norm.bias) @ tensors["weight"].T + tensors["bias"])
    torch.testing.assert_close(linear(**tensors, norm=norm, gelu=True), expected)
    tensors, _ = problem("both", torch.float64)
    expected = tensors["x"] @ tensors["weight"].T + tensors["bias"] + tensors["residual"]
    torch.testing.assert_close(linear(**tensors), expected + tensors["skip"] * tensors["scale"])


def test_bfloat16_keeps_the_type_of_a_residual(products):
    products[0] = "bf16"
    for case, dtype in (("bias", torch.bfloat16), ("both", torch.float32)):
        y, *_ = run(case, torch.float32)
        exact, *_ = run(case, torch.float64)
        assert y.dtype == dtype
        assert 0 < float((y - exact).norm() / exact.norm()) < 1e-2


@pytest.mark.parametrize("case", ["bias", "norm", "norm and GELU", "wide, bias", "wide, norm and GELU"])
@pytest.mark.parametrize("others", [1, 2])
def test_a_fork_adds_what_the_others_give(case, others, products):
    found = []
    for dtype in (torch.float32, torch.float64):
        tensors, norm = problem(case, dtype)
        y, *same = linear_forked(**tensors, others=others, norm=norm, gelu="gelu" in CASES[case][3])
        assert len(same) == others and all(torch.equal(s, tensors["x"]) for s in same)
        assert dtype == torch.float64 or all(s is not tensors["x"] for s in same)
        grads = [normal(*t.shape, seed=9 + i).to(t) for i, t in enumerate((y, *same))]
        leaves = [*tensors.values(), *(norm.parameters() if norm else ())]
        found.append(torch.autograd.grad([y, *same], leaves, grads))
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape and float((a - b).abs().max() / b.abs().max()) < 3e-6


def test_exact_products_of_bfloat16_inputs(products):
    """What float32 gives, though autocast would multiply in bfloat16; the gradient of x has its type."""
    products[0] = "bf16"
    tensors, _ = problem("GELU", torch.float32)
    x = normal(40, 5).bfloat16().requires_grad_()
    y = linear(x, tensors["weight"], tensors["bias"], gelu=True, exact=True)
    exact = F.gelu(x.double() @ tensors["weight"].double().T + tensors["bias"])
    assert y.dtype == torch.float32 and float((y - exact).detach().abs().max() / exact.abs().max()) < 1e-6
    found, truth = (torch.autograd.grad(t.sum(), [x, tensors["weight"]]) for t in (y, exact))
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(found[0], truth[0], rtol=0.01, atol=0)
    torch.testing.assert_close(found[1], truth[1], rtol=1e-5, atol=1e-5)


def test_the_operators_are_well_formed():
    x, dy, weight, bias = (normal(*shape) for shape in ((2, 5, 8), (2, 5, 6), (6, 8), (6,)))
    operators, checks = torch.ops.mambair_bench, ("test_schema", "test_faketensor")
    around = [normal(8, seed=1), normal(8, seed=2), 1e-5]
    for norm, gelu, skip, others in ((around, True, None, [x]), ([None, None, 0.0], False, dy, [])):
        after = (None, skip, None if skip is None else bias, "tf32x3")
        torch.library.opcheck(operators.linear, (x, *norm, weight, bias, gelu, *after, False), test_utils=checks)
        arguments = (dy, x, *norm, weight, bias, gelu, *after[1:], others)
        torch.library.opcheck(operators.linear_backward, arguments, test_utils=checks)


def test_nothing_is_kept_but_the_input(products):
    tensors, norm = problem("norm and GELU", torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        linear(**tensors, norm=norm, gelu=True)
    inputs = {t.data_ptr() for t in (*tensors.values(), *norm.parameters())}
    assert kept and set(kept) <= inputs
