"""3x3 convolutions in kernels: against float64, and in whole networks.

Kernels run on a GPU where there is one, else in Triton's interpreter.
"""

import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import models
from models import layers
from models.ops import conv3x3
from models.ops.common.precision import precision
from models.ops.noise import PhiloxGumbel

pytest.importorskip("triton", reason="needs Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or Triton's interpreter (TRITON_INTERPRET=1)", allow_module_level=True)

OPERATOR = torch.ops.mambair_bench.convolution
CASES = [  # images, height, width, channels, outputs
    (2, 5, 7, 20, 12),  # channels and outputs that no block divides, tiles past the border
    (1, 2, 17, 16, 48),  # outputs in two parts
    (1, 3, 3, 16, 66),  # several programs for a tile
    (3, 1, 4, 34, 3),
    (1, 1, 1, 17, 1),
]
LIMITS = {"tf32x3": 5e-7, "ieee": 5e-7, "tf32": 3e-3, "bf16": 2e-2}  # of the error's norm


@pytest.fixture
def in_kernels(monkeypatch):
    """Kernels also for tensors on a CPU, in the interpreter; fresh memory holds values no test would pass with."""
    monkeypatch.setattr("models.ops.conv3x3.chosen_products", lambda x: "tf32x3" if x.dtype == torch.float32 else None)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def problem(case, residual: bool) -> list[torch.Tensor]:
    """x, weight, bias and residual or None, then a weight for the output: float64 with values that float32 holds."""
    batch, height, width, channels, outputs = case
    g = torch.Generator().manual_seed(sum(case))
    shapes = [(batch, height, width, channels), (outputs, channels, 3, 3), (outputs,)]
    shapes += [(batch, height, width, outputs)] * 2
    tensors = [torch.randn(shape, generator=g).double().to(DEVICE) for shape in shapes]
    return tensors if residual else [*tensors[:3], None, tensors[4]]


def results(function, case, residual: bool, dtype: torch.dtype) -> list[torch.Tensor]:
    """Output and the gradients of x, weight, bias and residual."""
    *inputs, dy = problem(case, residual)
    inputs = [None if t is None else t.to(dtype).requires_grad_() for t in inputs]
    y = function(*inputs)
    return [y.detach(), *torch.autograd.grad(y, [t for t in inputs if t is not None], dy.to(dtype))]


def plain(x, weight, bias, residual):
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1)
    return y if residual is None else y + residual


@pytest.mark.parametrize(
    "case, residual, products",
    [
        *((case, residual, "tf32x3") for case in CASES for residual in (True, False)),
        *((CASES[0], residual, products) for residual, products in ((True, "tf32"), (True, "bf16"), (False, "ieee"))),
    ],
    ids=str,
)
def test_output_and_every_gradient(case, residual, products, in_kernels):
    found = results(lambda *inputs: OPERATOR(*inputs, products), case, residual, torch.float32)
    for a, b in zip(found, results(plain, case, residual, torch.float64), strict=True):
        assert float((a - b).norm() / b.norm()) < LIMITS[products]


def test_parts_of_the_pixels_add_up(monkeypatch):
    """Any number of programs gives the same gradient of weights, also where the last one has no pixel of its own."""
    from models.ops.conv3x3 import triton as kernels

    case = (2, 9, 11, 18, 4)  # 198 pixels, seven steps
    x, weight, bias, _, dy = problem(case, False)
    x, weight, bias = (t.requires_grad_() for t in (x, weight, bias))
    exact = torch.autograd.grad(plain(x, weight, bias, None), [weight, bias], dy)
    for programs in (3, 9, 18):
        monkeypatch.setattr(kernels, "PROGRAMS", programs)
        found = kernels.backward_weight(dy.float(), x.detach().float(), "tf32x3")
        for a, b in zip(found, exact, strict=True):
            assert float((a - b).norm() / b.norm()) < 5e-7


def test_gradients_of_weights_alone_in_kernels():
    """In bfloat16, of which products are exact in float32: only what PyTorch makes is rounded."""
    x, weight, bias, _, dy = problem(CASES[0], False)
    x, weight, dy = (t.bfloat16() for t in (x, weight, dy))
    found, exact = [], []
    for results, dtype, function in (
        (found, torch.float32, conv3x3.operator.WeightsInKernels.apply),
        (exact, torch.float64, lambda *inputs: plain(*inputs, None)),
    ):
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
        y = function(leaves[0].bfloat16() if results is found else leaves[0], *leaves[1:])
        results += [y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))]
    assert [t.dtype for t in found] == [torch.bfloat16, *[torch.float32] * 3]
    for a, b, limit in zip(found, exact, (5e-3, 5e-3, 5e-7, 5e-7), strict=True):
        assert float((a - b).norm() / b.norm()) < limit


def test_rows_with_gaps_are_read_in_place(in_kernels):
    wide, (_, weight, bias, *_) = problem((2, 4, 6, 64, 8), False)[0], problem((2, 4, 6, 20, 24), False)
    x, residual = wide.float()[..., 20:40], wide.float()[..., 40:]
    y = OPERATOR(x, weight.float(), bias.float(), residual, "tf32x3")
    exact = plain(x.double(), weight, bias, residual.double())
    assert y.is_contiguous() and float((y - exact).norm() / exact.norm()) < 5e-7


def test_types_of_the_output_and_of_the_gradients(in_kernels):
    """In bfloat16 a float32 residual makes a float32 result."""
    x, weight, bias, residual, _ = (t.float() for t in problem((1, 4, 4, 16, 16), True))
    x = x.bfloat16().requires_grad_()
    leaves = [weight.requires_grad_(), bias.requires_grad_(), residual.requires_grad_()]
    y = OPERATOR(x, *leaves, "bf16")
    grads = torch.autograd.grad(y.sum(), [x, *leaves])
    assert y.dtype == torch.float32 and OPERATOR(x, *leaves[:2], None, "bf16").dtype == torch.bfloat16
    assert [g.dtype for g in grads] == [torch.bfloat16, *[torch.float32] * 3]


def test_operator_is_registered_as_pytorch_wants_it():
    inputs = [t.float().requires_grad_() for t in problem((1, 4, 5, 16, 17), True)[:4]]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(OPERATOR, (*inputs, "tf32x3"), test_utils=tests)
    torch.library.opcheck(OPERATOR, (*inputs[:3], None, "tf32x3"), test_utils=tests[:3])


def test_operations_are_counted_as_pytorch_counts_them(in_kernels):
    case = CASES[0]
    counts = []
    for function in (plain, lambda *inputs: OPERATOR(*inputs, "tf32x3")):
        with FlopCounterMode(display=False) as counter:
            results(function, case, False, torch.float32)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 3 * 2 * 70 * 9 * 20 * 12


def test_what_kernels_take():
    from models.ops.conv3x3 import in_kernels

    def conv(*arguments, **changes):
        return nn.Conv2d(*arguments, **{"padding": 1, **changes})

    assert in_kernels(conv(16, 3, 3)) and in_kernels(layers.conv3x3(174, 174))
    refused = [conv(3, 48, 3), conv(32, 32, 5, padding=2), conv(32, 32, 1), conv(32, 32, 3, groups=2), nn.Identity()]
    refused += [conv(32, 32, 3, padding=0), conv(32, 32, 3, stride=2), conv(32, 32, 3, dilation=2)]
    refused += [conv(32, 32, 3, bias=False), conv(32, 32, 3, padding_mode="reflect"), nn.PixelShuffle(2)]
    assert not any(map(in_kernels, refused))


@pytest.mark.parametrize(
    ("chosen", "applied", "learned"),
    [((), [], ["bf16"]), (("tf32x3",), ["tf32x3"], ["tf32x3", "bf16"]), (("tf32",), ["tf32"], ["tf32", "bf16"])],
)
def test_products_for_which_kernels_are_chosen(chosen, applied, learned, monkeypatch):
    """Those that are chosen, and for gradients of weights bf16 as well."""
    monkeypatch.setattr("models.ops.common.dispatch.has_kernels", lambda x: x.dtype != torch.float64)
    monkeypatch.setattr(conv3x3, "CHOSEN", chosen)
    taken = {True: [], False: []}
    for products in ("tf32x3", "tf32", "bf16", None):
        monkeypatch.setattr(conv3x3, "kernel_products", lambda x, products=products: products)
        for gradients, found in taken.items():
            with torch.set_grad_enabled(gradients):
                found.append(conv3x3.chosen_products(torch.zeros(1)))
        assert conv3x3.chosen_products(torch.zeros(1, dtype=torch.float64)) is None
    assert [each for each in taken[False] if each] == applied
    assert [each for each in taken[True] if each] == learned


@pytest.mark.parametrize(
    "head, resi_connection, dim, taken",
    [("pixelshuffledirect", "3conv", 64, 5), ("pixelshuffle", "1conv", 16, 5)],
    ids=["direct", "pixelshuffle"],
)
def test_networks_have_the_same_output_and_gradients(head, resi_connection, dim, taken, monkeypatch):
    """Everything but their convolutions in plain PyTorch (on a CPU), in layers that wait as those in kernels do."""
    monkeypatch.setattr("models.backbone.HEAD_FEATURES", 16)
    options = {"upscale": 2, "upsampler": head, "resi_connection": resi_connection, "embed_dim": dim, "window_size": 4}
    made = models.build("mambairv2-tiny", **options).to(DEVICE)
    made.noise = PhiloxGumbel([7])
    image, found, calls = torch.rand(1, 3, 4, 5, device=DEVICE), [], []

    def through(conv, *arguments):
        calls.append(conv)
        return convolve3x3(conv, *arguments)

    convolve3x3 = conv3x3.convolve3x3
    monkeypatch.setattr(conv3x3, "convolve3x3", through)
    monkeypatch.setattr("models.ops.fusion.uses_kernels", lambda x: True)
    for products in ("tf32x3", None):
        monkeypatch.setattr(conv3x3, "chosen_products", lambda x, products=products: products)
        with precision("fp32", DEVICE):
            y = made(image)
            found.append([y.detach(), *torch.autograd.grad(y.square().sum(), list(made.parameters()))])
    expected = [m for m in made.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    expected = [m for m in expected if m.groups == 1 and m.in_channels >= 16]
    assert {id(m) for m in calls} == {id(m) for m in expected} and len(calls) == len(expected) == taken
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * float(b.abs().max()))
