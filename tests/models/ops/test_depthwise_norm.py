"""Depthwise convolutions, LayerNorm and recomputation in kernels: against float64, and in a whole network.

Kernels run on a GPU where there is one, else in Triton's interpreter.
"""

import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import models
from models import layers
from models.ops.common.dispatch import kernels_allowed, without_kernels
from models.ops.common.precision import Settings
from models.ops.depthwise import convolve
from models.ops.fusion import Tokens, scaled
from models.ops.linear import linear
from models.ops.noise import PhiloxGumbel
from models.ops.norm import layer_norm, layer_norm_forked

pytest.importorskip("triton", reason="needs Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or Triton's interpreter (TRITON_INTERPRET=1)", allow_module_level=True)

THEN = {
    "gate": lambda x, c, gate: F.gelu(gate) * c,
    "sigmoid": lambda x, c, gate: x * c.sigmoid(),
    "gelu": lambda x, c, gate: x + F.gelu(c),
    "silu": lambda x, c, gate: F.silu(c),
}


@pytest.fixture
def in_kernels(monkeypatch):
    """Kernels also for tensors on a CPU, in the interpreter; fresh memory holds values no test would pass with."""
    monkeypatch.setattr("models.ops.common.dispatch.has_kernels", lambda x: x.dtype != torch.float64)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(DEVICE)


def errors(found, exact) -> list[float]:
    pairs = zip(found, exact, strict=True)
    return [float((f.detach().double() - e.detach()).abs().max() / e.detach().abs().max()) for f, e in pairs]


@pytest.mark.parametrize(
    "shape, then, kernel",
    [
        *(((1, 5, 6, 18), "gate", 5), ((1, 5, 9, 32), "gelu", 5), ((1, 3, 17, 7), "gate", 5)),
        *((shape, then, 3) for shape in ((1, 6, 5, 12), (1, 3, 17, 7), (2, 1, 1, 3)) for then in THEN),
    ],
    ids=str,
)
def test_depthwise_and_every_gradient(shape, then, kernel, in_kernels):
    channels = shape[-1]
    conv = layers.Depthwise(channels, kernel, then).to(DEVICE)
    wide = normal(*shape[:3], 2 * channels)  # x and gate are halves of it, as in the network: rows have gaps
    x, gate = wide.chunk(2, -1)
    inputs = [x, conv.weight, conv.bias] + ([gate] if then == "gate" else [])
    inputs = [t.detach().requires_grad_() for t in inputs]
    conv.weight, conv.bias = (nn.Parameter(t) for t in inputs[1:3])
    inputs[1:3] = conv.weight, conv.bias
    dy = normal(*shape, seed=1)
    y = convolve(conv, inputs[0], then, inputs[3] if then == "gate" else None)
    grads = torch.autograd.grad(y, inputs, dy)

    exact = [t.detach().double().requires_grad_() for t in inputs]
    c = F.conv2d(exact[0].permute(0, 3, 1, 2), exact[1], exact[2], padding=kernel // 2, groups=channels)
    expected = THEN[then](exact[0], c.permute(0, 2, 3, 1), exact[-1])
    truths = torch.autograd.grad(expected, exact, dy.double())
    assert y.is_contiguous() and [g.shape for g in grads] == [t.shape for t in truths]
    assert max(errors([y, *grads], [expected, *truths])) < 2e-6


@pytest.mark.parametrize("then", THEN)
def test_depthwise_in_bfloat16_rounds_once(then, in_kernels):
    """Inputs and output are bfloat16, everything in between is float32; gradients have the types of their inputs."""
    conv = layers.Depthwise(10, 3, then).to(DEVICE)
    x, gate = (normal(1, 5, 5, 10, seed=s).bfloat16().requires_grad_() for s in (0, 1))
    y = convolve(conv, x, then, gate if then == "gate" else None)
    c = F.conv2d(x.float().permute(0, 3, 1, 2), conv.weight, conv.bias, padding=1, groups=10).permute(0, 2, 3, 1)
    torch.testing.assert_close(
        y.float(), THEN[then](x.float(), c, gate.float()).bfloat16().float(), rtol=0.01, atol=1e-6
    )
    y.float().sum().backward()
    assert (x.grad.dtype, conv.weight.grad.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("shape", [(3, 5, 48), (67, 174), (1, 12), (2, 348), (700, 7)], ids=str)
@pytest.mark.parametrize("gelu", [False, True])
def test_layer_norm_and_every_gradient(shape, gelu, in_kernels):
    norm = nn.LayerNorm(shape[-1]).to(DEVICE)
    norm.weight, norm.bias = (nn.Parameter(normal(shape[-1], seed=s)) for s in (0, 1))
    x = (normal(*shape) * 2 + 3).requires_grad_()
    dy = normal(*shape, seed=2)
    y = layer_norm(norm, x, gelu=gelu)
    found = [y, *torch.autograd.grad(y, [x, norm.weight, norm.bias], dy)]
    exact = [t.detach().double().requires_grad_() for t in (x, norm.weight, norm.bias)]
    expected = F.layer_norm(F.gelu(exact[0]) if gelu else exact[0], shape[-1:], exact[1], exact[2])
    assert max(errors(found, [expected, *torch.autograd.grad(expected, exact, dy.double())])) < 2e-6


def test_gelu_is_nearer_to_float64_than_pytorchs(in_kernels):
    """And its derivative as near: as the gate of a convolution that gives 1. Far out it is 0 or its argument."""
    z = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e10, -1e4, 1e4, 1e10])]).to(DEVICE).requires_grad_()
    conv = layers.Depthwise(1, 1, "gate").to(DEVICE)
    nn.init.zeros_(conv.weight), nn.init.ones_(conv.bias)
    y = convolve(conv, torch.zeros_like(z).view(1, 1, -1, 1), "gate", z.view(1, 1, -1, 1)).flatten()
    found = [y, *torch.autograd.grad(y.sum(), z)]
    exact = z.detach().double().requires_grad_()
    value = F.gelu(exact)
    (slope,) = torch.autograd.grad(value.sum(), exact)
    error, slope_error, plain = (
        float((a.detach() - b.detach()).abs().max())
        for a, b in ((found[0], value), (found[1], slope), (F.gelu(z), value))
    )
    assert error < 4e-7 and error < plain and slope_error < 1e-6
    far = torch.tensor([[[[float("inf")], [float("nan")]]]], device=DEVICE)
    y = convolve(conv, torch.zeros_like(far), "gate", far).flatten()
    assert y[0] == float("inf") and y[1].isnan()


def test_rows_of_many_channels_begin_at_whole_words(in_kernels):
    """To be read 16 bytes at a time. Zeros lie between the rows, and a linear layer reads them too.

    Not where PyTorch multiplies, which is slower with space between rows.
    """
    x, weight, norm, conv = normal(1, 2, 3, 130), normal(20, 130), nn.LayerNorm(130), layers.Depthwise(130, 1, "gelu")
    norm.to(DEVICE), conv.to(DEVICE)
    assert layer_norm(norm, x).is_contiguous() and convolve(conv, x, "gelu").is_contiguous()
    with Settings("highest", False, "tf32x3"):
        for y in (layer_norm(norm, x, space=True), convolve(conv, x, "gelu")):
            assert y.shape == x.shape and y.stride(-2) == 136
            assert not y.detach().as_strided((6, 6), (136, 1), 130).any()
            assert torch.equal(linear(y, weight), linear(y.contiguous(), weight))
        rows = torch.full((7, 136), float("nan"), device=DEVICE)
        rows[:, :130] = normal(7, 130)
        assert linear(rows[1:, :130], weight).isfinite().all()  # of other memory, what lies between is not read


def test_a_norm_of_another_type_is_rounded_at_the_end(in_kernels):
    norm, x, dy = nn.LayerNorm(20).to(DEVICE), normal(9, 20).requires_grad_(), normal(9, 20, seed=1).bfloat16()
    y, narrow = layer_norm(norm, x), layer_norm(norm, x, dtype=torch.bfloat16)
    torch.testing.assert_close(narrow, y.bfloat16(), rtol=2**-7, atol=0.0)  # an interpreter cuts off, a GPU rounds
    for a, b in zip(*(torch.autograd.grad(v, [x, *norm.parameters()], dy.to(v)) for v in (y, narrow)), strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


@pytest.mark.parametrize("others", [1, 2])
def test_a_norm_that_forks_adds_what_the_others_give(others, in_kernels):
    """Also halves of a wider gradient, whose rows have gaps."""
    norm, x, wide = nn.LayerNorm(20).to(DEVICE), normal(5, 9, 20).requires_grad_(), normal(5, 9, 40, seed=2)
    y, *same = layer_norm_forked(norm, x, others)
    assert len(same) == others and all(torch.equal(s, x) for s in same)
    exact = x.detach().double().requires_grad_()
    outputs = [F.layer_norm(exact, (20,), *(p.double() for p in norm.parameters())), *[exact] * others]
    grads = [normal(5, 9, 20, seed=1), *wide.chunk(2, -1)][: 1 + others]
    found = torch.autograd.grad([y, *same], [x, *norm.parameters()], grads)
    truths = torch.autograd.grad(outputs, [exact, *norm.parameters()], [g.double() for g in grads])
    assert max(errors(found, truths)) < 2e-6


@pytest.mark.parametrize("shapes", [((600, 5, 3),), ((17, 2, 7), (530, 66)), ((3, 300), (1, 1))], ids=str)
def test_sums_over_programs(shapes):
    from models.ops.common.sums import sum_rows

    parts = [normal(*shape) for shape in shapes]
    exact = torch.cat([part.double().sum(0).flatten() for part in parts])
    torch.testing.assert_close(sum_rows(*parts).double(), exact, rtol=1e-6, atol=2e-5)


def test_the_operators_are_well_formed():
    x, gate, dy = (normal(1, 2, 3, 4, seed=s) for s in range(3))
    weight, bias = normal(4, 1, 1, 1), normal(4)
    operators, checks = torch.ops.mambair_bench, ("test_schema", "test_faketensor")
    for then, side in (("gate", gate), ("gelu", None)):
        torch.library.opcheck(operators.depthwise, (x, weight, bias, side, then, True), test_utils=checks)
        torch.library.opcheck(operators.depthwise_backward, (dy, x, weight, bias, side, then), test_utils=checks)
    torch.library.opcheck(operators.layer_norm, (x, bias, bias, 1e-5, True, torch.bfloat16, True), test_utils=checks)
    wide, weight, bias = normal(1, 1, 2, 130), normal(130, 1, 1, 1), normal(130)
    for space in (True, False):
        torch.library.opcheck(operators.depthwise, (wide, weight, bias, None, "silu", space), test_utils=checks)
        given = wide, bias, bias, 1e-5, False, wide.dtype, space
        torch.library.opcheck(operators.layer_norm, given, test_utils=checks)
    bias = normal(4)
    for others in ([], [x, gate]):
        torch.library.opcheck(operators.layer_norm_backward, (dy, x, bias, 1e-5, True, others), test_utils=checks)


def kept(function) -> int:
    """Bytes that autograd keeps for the backward pass of function(), parameters apart."""
    storages = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if not isinstance(t, nn.Parameter):
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = function()
    assert result.requires_grad
    return sum(storages.values())


class Branch(nn.Module):
    """x + ffn(norm(x)) + skip scale, as a layer has it."""

    def __init__(self, ffn: nn.Module) -> None:
        super().__init__()
        self.ffn, self.norm, self.scale = ffn, layers.LayerNorm(12), nn.Parameter(torch.ones(12))

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = Tokens(x)
        return (x + self.ffn(self.norm(x)) + scaled(Tokens(skip), self.scale)).read()


@pytest.mark.parametrize("kind", [layers.GatedFFN, lambda dim, hidden: layers.ConvFFN(dim, hidden, 3)])
def test_a_feed_forward_keeps_its_input_and_one_tensor_more(kind, in_kernels):
    x, branch = normal(1, 8, 8, 12).requires_grad_(), Branch(kind(12, 12)).to(DEVICE)
    assert kept(lambda: branch(x, x)) == 2 * x.numel() * 4
    with without_kernels():
        assert kept(lambda: branch(x, x)) > 5 * x.numel() * 4


def test_the_product_at_the_end_is_not_computed_again(in_kernels, monkeypatch):
    """Its inputs are; the gradients are those of the plain network."""
    from models.ops.linear import triton as kernels

    monkeypatch.setattr("models.ops.linear.kernel_products", lambda x: "tf32x3")
    taken, forward = [], kernels.forward
    monkeypatch.setattr(kernels, "forward", lambda *arguments: taken.append(len(arguments[4])) or forward(*arguments))
    branch, x = Branch(layers.GatedFFN(12, 8)).to(DEVICE), normal(1, 4, 4, 12).requires_grad_()
    leaves, found = [x, *branch.parameters()], []
    for plain in (False, True):
        with without_kernels(plain):
            found.append(torch.autograd.grad(branch(x, x).sin().sum(), leaves))
    assert taken == [8, 12]
    assert max(errors(*found)) < 1e-5


class Additions(TorchDispatchMode):
    """Counts additions of whole tensors."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
        return function(*arguments, **(keywords or {}))


def test_gradients_of_what_several_read_are_added_in_kernels(in_kernels, monkeypatch):
    """Of a feed-forward's input, that is, which its residual reads too; PyTorch adds where nothing is fused."""
    monkeypatch.setattr("models.ops.linear.kernel_products", lambda x: "tf32x3")
    branch, counts = Branch(layers.GatedFFN(12, 12)).to(DEVICE), []
    for plain in (False, True):
        x, skip = (normal(1, 4, 4, 12, seed=s).requires_grad_() for s in (0, 1))
        with without_kernels(plain):
            y = branch(x, skip)
        with Additions() as additions:
            y.backward(torch.ones_like(y))
        counts.append(additions.count)
    assert counts[0] == 0 < counts[1]


def test_gradients_outside_of_a_precision_are_those_inside(in_kernels):
    """What is computed again for them is computed in the precision of the first time, and in kernels as then."""
    branch, x = Branch(layers.GatedFFN(12, 12)).to(DEVICE), normal(1, 4, 4, 12).requires_grad_()
    with Settings("highest", False, "tf32x3"):
        y = branch(x, x)
        (inside,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    for plain in (False, True):
        assert Settings.now().wanted[2] == "ieee"
        with without_kernels(plain):
            (outside,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
            assert kernels_allowed() != plain
        assert torch.equal(inside, outside)


def run(network: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Output and the gradient of every parameter."""
    network.noise = PhiloxGumbel([2**63 + 9])
    y = network(image)
    weights = torch.linspace(-1, 1, y.numel(), device=DEVICE).view_as(y)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), list(network.parameters()), allow_unused=True)]


VARIANTS = [
    {},
    {"ffn": "conv", "prompt_order": "semantic"},
    {"scans": 2, "routing": "argmax"},
    {"prompt_target": "delta"},
]


@pytest.mark.parametrize(
    "overrides, products",
    [*((variant, "tf32x3") for variant in VARIANTS[:2]), *((v, None) for v in VARIANTS[2:])],
    ids=str,
)
def test_a_network_in_kernels_is_the_network(overrides, products, in_kernels, monkeypatch):
    """Output and all gradients of the fused path, the router's among them, equal those of the plain one."""
    monkeypatch.setattr("models.ops.linear.kernel_products", lambda x: products)
    small = {"depths": (1,), "num_heads": (2,), "window_size": 4, "convffn_kernel_size": 3}
    compare(models.build("mambairv2-tiny", upscale=2, **small, **overrides))


def test_the_first_mambair_in_kernels_is_the_network(in_kernels):
    compare(models.build("mambair-light", upscale=2, depths=(1,), embed_dim=30).eval())


def compare(network: nn.Module) -> None:
    """The network as it is, in kernels, and then without them."""
    for name, parameter in network.named_parameters():
        if ".route." in name or "embedding" in name:
            parameter.data *= 8  # classes that rounding does not decide, prompts that matter
    network.backend = "chunked"
    network.to(DEVICE)
    image = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    found = run(network, image)
    with without_kernels():
        expected = run(network, image)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * float(b.abs().max()))


@pytest.mark.parametrize("backend, dtype", [("reference", torch.float32), ("chunked", torch.float64)])
def test_the_reference_and_float64_are_plain_pytorch(backend, dtype, in_kernels):
    """No operator of ours but the scan computes there (sorting, which rounds nothing, may in float64)."""
    network = models.build("mambairv2-tiny", upscale=2, depths=(1,), num_heads=(2,), backend=backend)
    network.to(DEVICE, dtype)
    with torch.profiler.profile() as profile:  # with gradients: else a GPU's operators pass the dispatcher by
        network(torch.rand(1, 3, 8, 8, device=DEVICE))
    ours = {event.name for event in profile.events() if event.name.startswith("mambair_bench::")}
    assert ours - {"mambair_bench::by_class"} == {"mambair_bench::attentive_scan"}
