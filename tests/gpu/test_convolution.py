"""3x3 convolutions in kernels on a GPU, at full sizes, against float64. Skipped without a GPU."""

import pytest
import torch
from torch.nn import functional as F

import models
from models import layers
from models.ops.fusion import Tokens

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
if (reason := models.ops.common.kernels.unavailable("cuda")) is not None:
    pytest.skip(f"no kernels here: {reason}", allow_module_level=True)

OPERATOR = torch.ops.mambair_bench.convolution
CASES = [  # images, height, width, channels, outputs
    (32, 64, 64, 48, 48),
    (1, 368, 640, 48, 48),
    (1, 368, 640, 48, 12),
    (2, 75, 133, 174, 174),
    (1, 61, 47, 174, 64),
    (2, 33, 19, 64, 256),
    (1, 131, 67, 64, 3),
    (3, 5, 1, 43, 174),
    (1, 1, 1, 16, 48),
]
LIMITS = {"ieee": 2e-6, "tf32x3": 2e-6, "tf32": 3e-3, "bf16": 2e-2}  # of the error's norm


def results(function, case, dtype: torch.dtype) -> list[torch.Tensor]:
    """Output and the gradients of x, weight, bias and residual; all dtypes get the same float32 values."""
    batch, height, width, channels, outputs = case
    g = torch.Generator("cuda").manual_seed(sum(case))
    shapes = [(batch, height, width, channels), (outputs, channels, 3, 3), (outputs,)]
    shapes += [(batch, height, width, outputs)] * 2
    *inputs, dy = (torch.randn(shape, generator=g, device="cuda").to(dtype) for shape in shapes)
    inputs[1] /= (9 * channels) ** 0.5
    leaves = [t.requires_grad_() for t in inputs]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def plain(x, weight, bias, residual):
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1) + residual


def in_kernels(case, products: str) -> list[torch.Tensor]:
    """By the operator, whose outputs hold NaN before they are written."""
    torch.use_deterministic_algorithms(True)  # fills new tensors
    try:
        return results(lambda *inputs: OPERATOR(*inputs, products), case, torch.float32)
    finally:
        torch.use_deterministic_algorithms(False)


def errors(found, exact) -> torch.Tensor:
    return torch.tensor([float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)])


@pytest.mark.parametrize("products", LIMITS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_every_gradient_twice_alike(case, products):
    first, second = (in_kernels(case, products) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    found = errors(first, results(plain, case, torch.float64))
    assert (found < LIMITS[products]).all(), found


def test_three_products_have_the_exactness_of_float32():
    """Over all cases of some size: the error of output, x and weight is at most that of plain float32."""
    three, float32 = [], []
    with models.precision("fp32", "cuda"):
        for case in CASES[:7]:
            exact = results(plain, case, torch.float64)
            three.append(errors(in_kernels(case, "tf32x3"), exact))
            float32.append(errors(results(plain, case, torch.float32), exact))
    three, float32 = (torch.stack(found).square().mean(0).sqrt() for found in (three, float32))
    print("error of tf32x3 over that of float32: output, x, weight, bias:", (three / float32)[:4].tolist())
    assert (three[:3] <= 1.05 * float32[:3]).all() and three[3] < 1e-6


def test_images_of_more_than_2_to_the_31_elements():
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    side, channels = 5800, 64
    assert side * side * channels > 2**31
    x = torch.randn(1, side, side, channels, device="cuda", dtype=torch.bfloat16)
    weight, bias = torch.randn(channels, channels, 3, 3, device="cuda") / 24, torch.randn(channels, device="cuda")
    y = OPERATOR(x, weight, bias, None, "bf16")
    for corner in (slice(0, 32), slice(-32, None)):
        crop = x[:, corner, corner].float()
        exact = plain(crop, weight.bfloat16().float(), bias, 0.0)
        inner = slice(0, 31) if corner.start == 0 else slice(1, None)  # away from where the crop was cut
        torch.testing.assert_close(
            y[:, corner, corner][:, inner, inner].float(), exact[:, inner, inner], rtol=1e-2, atol=1e-2
        )
    rows = slice(-4, None)
    grad = torch.zeros_like(y)
    grad[:, rows] = 1.0
    dweight = torch.ops.mambair_bench.convolution_backward(grad, x, weight, "bf16")[1]
    part = x[:, -5:].float().permute(0, 3, 1, 2).sum(3, keepdim=True)  # [1, C, 5, 1]
    torch.testing.assert_close(dweight[:, :, 0, 1], part[0, :, :4, 0].sum(1).expand(channels, -1), rtol=1e-3, atol=0.1)


@pytest.mark.parametrize("precision", ["tf32x3", "tf32", "bf16"])
def test_compiled_convolutions_train(precision, monkeypatch):
    monkeypatch.setattr("models.ops.conv3x3.CHOSEN", ("tf32x3", "tf32", "bf16"))
    conv = layers.conv3x3(24, 24).cuda()

    def layer(x):
        return (Tokens(x) + layers.convolved(conv, Tokens(x))).read()

    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for size in ((32, 16), (47, 65)):
        found = []
        x = torch.randn(2, *size, 24, device="cuda")
        for function in (layer, compiled):
            conv.zero_grad()
            with models.precision(precision, "cuda"):
                y = function(x)
            y.sum().backward()
            found.append([y, conv.weight.grad, conv.bias.grad])
        assert y.dtype == torch.float32  # as the residual
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.detach().abs().max()))


@pytest.mark.parametrize("outputs", [12, 48])
def test_gradients_of_weights_are_exact_and_the_same_every_time(outputs):
    """At the size of a training step; products of bfloat16 numbers are exact in float32."""
    from models.ops.conv3x3 import triton as kernels

    x, dy = (torch.randn(16, 48, 48, channels, device="cuda").bfloat16() for channels in (48, outputs))
    weight = torch.zeros(outputs, 48, 3, 3, device="cuda", dtype=torch.double, requires_grad=True)
    y = torch.nn.functional.conv2d(x.double().permute(0, 3, 1, 2), weight, padding=1)
    (exact,) = torch.autograd.grad(y, weight, dy.double().permute(0, 3, 1, 2))
    found = [kernels.backward_weight(dy, x, "bf16") for _ in range(20)]
    assert float((found[0][0] - exact).norm() / exact.norm()) < 2e-6
    assert all(torch.equal(a, b) for again in found[1:] for a, b in zip(found[0], again, strict=True))
