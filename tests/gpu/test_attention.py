"""Window attention in kernels on a GPU, against float64. Skipped without a GPU."""

import pytest
import torch

import models
from models import layers
from models.ops.attention import shift_mask, unavailable, window_attention
from models.ops.fusion import Tokens

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
if (reason := unavailable("cuda")) is not None:
    pytest.skip(f"no kernels here: {reason}", allow_module_level=True)

OPERATOR = torch.ops.mambair_bench.window_attention
CASES = [  # images, height, width, window, heads, head_dim
    (1, 16, 16, 16, 4, 12),  # one window: every border at once
    (3, 48, 80, 16, 4, 12),
    (2, 32, 48, 16, 6, 29),
    (1, 64, 16, 16, 4, 33),
    (2, 16, 48, 16, 2, 64),  # no column of padding
    (5, 8, 40, 8, 3, 7),
    (1, 24, 16, 8, 2, 32),
]
LIMITS = {"ieee": 2e-6, "tf32x3": 2e-6, "tf32": 3e-3, "bf16": 2e-2}  # of the error's norm


def problem(case, scale: float = 1.0):
    """qkv, table and a weight for the output, float32; scores grow with the square of `scale`."""
    batch, height, width, window, heads, head_dim = case
    g = torch.Generator("cuda").manual_seed(head_dim)
    qkv = torch.randn(batch, height, width, 3 * heads * head_dim, generator=g, device="cuda")
    qkv[..., : 2 * heads * head_dim] *= scale
    table = torch.randn((2 * window - 1) ** 2, heads, generator=g, device="cuda")
    return qkv, table, torch.randn(batch, height, width, heads * head_dim, generator=g, device="cuda")


def gradients(function, qkv, table, weight) -> list[torch.Tensor]:
    """Output, and the gradients of q, k, v and the table."""
    qkv, table = qkv.clone().requires_grad_(), table.clone().requires_grad_()
    out = function(qkv, table)
    grad, grad_table = torch.autograd.grad(out, (qkv, table), weight.to(out))
    return [x.detach() for x in (out, *grad.chunk(3, -1), grad_table)]


def plain(case, shifted: bool, dtype: torch.dtype, scale: float = 1.0) -> list[torch.Tensor]:
    window, heads = case[3:5]
    mask = shift_mask(window).to("cuda", dtype)

    def function(qkv, table):
        return window_attention(qkv, table, mask, window=window, heads=heads, shifted=shifted, backend="plain")

    return gradients(function, *(x.to(dtype) for x in problem(case, scale)))


def in_kernels(case, shifted: bool, products: str, scale: float = 1.0) -> list[torch.Tensor]:
    """By the operator, whose outputs hold NaN before they are written."""
    window, heads = case[3:5]
    qkv, table, weight = problem(case, scale)
    qkv = qkv.bfloat16() if products == "bf16" else qkv
    shift = window // 2 if shifted else 0
    torch.use_deterministic_algorithms(True)  # fills new tensors
    try:
        return gradients(
            lambda qkv, table: OPERATOR(qkv, table, window, heads, shift, products, True)[0], qkv, table, weight
        )
    finally:
        torch.use_deterministic_algorithms(False)


def errors(got, exact) -> torch.Tensor:
    return torch.tensor([float((a.double() - b).norm() / b.norm()) for a, b in zip(got, exact, strict=True)])


@pytest.mark.parametrize("products", LIMITS)
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_every_gradient_twice_alike(case, shifted, products):
    first, second = (in_kernels(case, shifted, products) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert (errors(first, plain(case, shifted, torch.float64)) < LIMITS[products]).all()


def test_three_products_have_the_exactness_of_float32():
    """Over all cases: the output's error is at most plain float32's, and that of no gradient far from it."""
    three, float32 = [], []
    for case in CASES:
        for scale in (0.5, 1.0, 2.0):
            exact = plain(case, True, torch.float64, scale)
            three.append(errors(in_kernels(case, True, "tf32x3", scale), exact))
            float32.append(errors(plain(case, True, torch.float32, scale), exact))
    ratio = torch.stack(three).square().mean(0).sqrt() / torch.stack(float32).square().mean(0).sqrt()
    print("error of tf32x3 over that of float32: output, q, k, v, table:", ratio.tolist())
    assert ratio[0] <= 1.05 and (ratio < 1.5).all()


def test_precision_tf32x3_takes_the_kernels():
    case = (1, 32, 32, 16, 4, 12)
    qkv, table, _ = problem(case)
    mask = shift_mask(16).cuda()
    with models.precision("tf32x3", "cuda"):
        out = window_attention(qkv, table, mask, window=16, heads=4, shifted=True)
    assert torch.equal(out, OPERATOR(qkv, table, 16, 4, 8, "tf32x3", False)[0])


def test_images_of_more_than_2_to_the_31_elements():
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of free GPU memory")
    height, width, channels = 3360, 3360, 64
    assert height * width * 3 * channels > 2**31
    qkv = torch.randn(1, height, width, 3 * channels, device="cuda", dtype=torch.bfloat16)
    table = torch.randn(31**2, 2, device="cuda")
    out = OPERATOR(qkv, table, 16, 2, 0, "bf16", False)[0]
    for corner in (slice(0, 32), slice(-32, None)):
        crop = qkv[:, corner, corner].contiguous()
        assert torch.equal(out[:, corner, corner], OPERATOR(crop, table, 16, 2, 0, "bf16", False)[0])


@pytest.mark.parametrize("precision", ["tf32x3", "bf16"])
def test_compiled_layer_trains(precision, monkeypatch):
    monkeypatch.setattr("models.ops.attention.resolve", lambda *arguments: "triton")
    module, mask = layers.WindowAttention(24, 16, 2, True).cuda(), shift_mask(16).cuda()
    torch.nn.init.normal_(module.relative_position_bias_table)

    def attend(qkv):
        return module(Tokens(qkv), mask).read()

    compiled = torch.compile(attend, fullgraph=True, dynamic=True)
    for size in ((32, 16), (48, 64)):
        qkv, results = torch.randn(2, *size, 72, device="cuda"), []
        for function in (attend, compiled):
            module.zero_grad()
            with models.precision(precision, "cuda"):
                x = qkv.bfloat16() if precision == "bf16" else qkv
                out = function(x)
            out.sum().backward()
            results.append([out, *(p.grad for p in module.parameters())])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
