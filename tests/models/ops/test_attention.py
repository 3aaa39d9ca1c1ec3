"""Window attention: the definition against a mask over the whole image; the kernels in Triton's interpreter."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from models import layers
from models.ops import attention
from models.ops.attention import relative_position_index, shift_mask, window_attention
from models.ops.attention.reference import relative_position_bias
from models.ops.common.dispatch import without_kernels
from models.ops.fusion import Tokens

precision = importlib.import_module("models.ops.common.precision")  # `models.ops.common.precision` is its function

# --- the definition --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 5, 8])
def test_relative_position_bias_is_the_table_at_its_index(window):
    table = torch.randn((2 * window - 1) ** 2, 3, dtype=torch.float64, requires_grad=True)
    index = relative_position_index(window)
    for query in range(window**2):
        for key in range(0, window**2, 3):
            dy, dx = query // window - key // window, query % window - key % window
            assert index[query, key] == (dy + window - 1) * (2 * window - 1) + dx + window - 1
    bias, looked_up = relative_position_bias(table, window), table[index].permute(2, 0, 1)
    assert torch.equal(bias, looked_up)
    weight = torch.randn_like(bias)
    torch.testing.assert_close(
        torch.autograd.grad((bias * weight).sum(), table)[0], torch.autograd.grad((looked_up * weight).sum(), table)[0]
    )


def whole_image_attention(module, qkv: torch.Tensor, shift: int) -> torch.Tensor:
    """Window attention of one image [H, W, 3C] by a mask over all pairs of pixels."""
    height, width, _ = qkv.shape
    window, heads = module.window, module.heads
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ry, rx = ((y - shift) % height).flatten(), ((x - shift) % width).flatten()  # places after the roll
    y, x = y.flatten(), x.flatten()
    same_window = (ry[:, None] // window == ry // window) & (rx[:, None] // window == rx // window)
    came_round = torch.stack([(y < shift), (x < shift)], 1)  # pixels that the roll carries to the far border
    apart = (came_round[:, None] != came_round[None]).any(-1)  # inside a window: on two sides of the image's border
    dy, dx = ry[:, None] % window - ry % window, rx[:, None] % window - rx % window
    row = (dy + window - 1) * (2 * window - 1) + dx + window - 1
    q, k, v = qkv.flatten(0, 1).unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)  # [heads, L, d] each
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    scores = scores + module.relative_position_bias_table[row].permute(2, 0, 1) - 100.0 * apart
    weights = scores.masked_fill(~same_window, float("-inf")).softmax(-1)
    return module.proj((weights @ v).transpose(0, 1).flatten(1)).unflatten(0, (height, width))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(12, 8), (4, 12), (4, 4)])
def test_window_attention_is_masked_attention_of_the_whole_image(size, shifted, fused):
    module = layers.WindowAttention(6, 4, 2, shifted).double()
    torch.nn.init.normal_(module.relative_position_bias_table)
    qkv = 3 * torch.randn(2, *size, 18, dtype=torch.float64)
    with torch.no_grad(), without_kernels(not fused):
        output = module(Tokens(qkv), shift_mask(4).double()).read()
        for b in range(2):
            expected = whole_image_attention(module, qkv[b], 2 if shifted else 0)
            torch.testing.assert_close(output[b], expected, rtol=1e-10, atol=1e-10)


# --- choice of the backend -------------------------------------------------------------------------------------------


def call(backend: str = "auto", size=(8, 8), window: int = 8, heads: int = 2, **changes) -> torch.Tensor:
    qkv, table = torch.randn(1, *size, 24), torch.randn((2 * window - 1) ** 2, heads)
    arguments = {"qkv": qkv, "table": table, "mask": shift_mask(window), "window": window, "heads": heads}
    return window_attention(**{**arguments, "shifted": True, **changes}, backend=backend)


def test_auto_is_decided_by_device_type_precision_and_shape(monkeypatch):
    def auto(device: str, dtype=torch.float32, window: int = 16, channels: int = 3 * 48, heads: int = 4) -> str:
        qkv = SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(1, 32, 32, channels))
        return attention.resolve("auto", qkv, window, heads)

    assert auto("cpu") == "plain"
    with torch.no_grad():
        assert auto("cpu") == "fused"
    monkeypatch.setattr(attention, "unavailable", lambda device: None if device.type == "cuda" else "no GPU")
    wide = {"channels": 3 * 174, "heads": 6}
    assert [auto("cuda"), auto("cuda", **wide)] == ["triton", "fused"]  # float32: narrow heads
    with torch.no_grad():
        assert [auto("cuda", **wide), auto("cuda", channels=3 * 198, heads=6)] == ["triton", "fused"]
    monkeypatch.setattr(precision, "_products", "tf32x3")
    assert auto("cpu") == "plain"
    assert [auto("cuda"), auto("cuda", window=8), auto("cuda", channels=3 * 198, heads=6)] == ["triton"] * 3
    assert [auto("cuda", torch.bfloat16, **wide), auto("cuda", torch.float64)] == ["triton", "fused"]
    assert auto("cuda", window=4) == auto("cuda", window=32) == auto("cuda", channels=3 * 65, heads=1) == "fused"


def test_a_backend_by_name_is_never_replaced():
    with pytest.raises(models.ModelError, match=r"NVIDIA's GPUs, not on cpu; take 'fused'"):
        call("triton")
    with pytest.raises(models.ModelError, match="unknown attention backend 'flash': choose one of auto, plain, fused"):
        call("flash")
    torch.manual_seed(0)
    plain = call("plain")
    torch.manual_seed(0)
    torch.testing.assert_close(call("fused"), plain)


def test_shapes_that_do_not_fit_are_refused():
    for changes in ({"size": (8, 12)}, {"heads": 3}, {"qkv": torch.zeros(8, 8, 24)}):
        with pytest.raises(ValueError, match="qkv must be"):
            call(**changes)
    with pytest.raises(ValueError, match=r"must be \[225, 2\], not \[225, 1\]"):
        call(table=torch.zeros(225, 1))


def test_tf32x3_is_of_the_kernels_and_is_put_back(monkeypatch):
    monkeypatch.setattr(precision, "unavailable", lambda device: None)
    assert precision.float32_products() == "ieee"
    with models.precision("tf32x3", "cpu"):
        assert precision.float32_products() == "tf32x3"
        assert torch.get_float32_matmul_precision() == "highest"
        with models.precision("fp32", "cpu"):
            assert precision.float32_products() == "ieee"
        assert precision.float32_products() == "tf32x3"
    assert precision.float32_products() == "ieee"


# --- the operator ----------------------------------------------------------------------------------------------------

OPERATOR = torch.ops.mambair_bench.window_attention


def test_operations_are_counted_as_those_of_the_definition():
    qkv, table = torch.empty(2, 32, 16, 72, device="meta"), torch.empty(31**2, 2, device="meta")

    def count(function) -> int:
        with FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    mask = shift_mask(16).to("meta")
    plain = count(lambda: window_attention(qkv, table, mask, window=16, heads=2, shifted=False, backend="plain"))
    assert plain == 2 * 2 * (2 * 32 * 16) * 256 * 24
    assert count(lambda: OPERATOR(qkv, table, 16, 2, 8, "ieee", False)) == plain
    leaf = qkv.requires_grad_()
    both = count(lambda: OPERATOR(leaf, table, 16, 2, 8, "ieee", True)[0].backward(torch.empty_like(qkv[..., :24])))
    assert both == plain * 7 // 2  # two products forward, five backward


# --- the kernels, in Triton's interpreter ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernels():
    """The module of the kernels, which run on CPU tensors here. (On a GPU: tests/gpu/test_attention.py.)"""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs TRITON_INTERPRET=1 from the start, as tests/conftest.py sets it where there is no GPU")
    from models.ops.attention import triton as kernels

    return kernels


def gradients(function, qkv, table, weight) -> list[torch.Tensor]:
    """Output, and the gradients of q, k, v and the table, in float64."""
    qkv, table = qkv.clone().requires_grad_(), table.clone().requires_grad_()
    out = function(qkv, table)
    grad, grad_table = torch.autograd.grad(out, (qkv, table), weight.to(out))
    return [x.detach().double() for x in (out, *grad.chunk(3, -1), grad_table)]


def problem(batch, height, width, window, heads, head_dim, scale=1.0):
    """qkv, table and a weight for the output; scores grow with the square of `scale`."""
    g = torch.Generator().manual_seed(window + head_dim)
    channels = heads * head_dim
    qkv = torch.randn(batch, height, width, 3 * channels, generator=g)
    qkv[..., : 2 * channels] *= scale
    table = torch.randn((2 * window - 1) ** 2, heads, generator=g)
    return qkv, table, torch.randn(batch, height, width, channels, generator=g)


def in_float64(case, shifted: bool, scale: float = 1.0) -> list[torch.Tensor]:
    qkv, table, weight = problem(*case, scale)
    window, heads = case[3:5]
    mask = shift_mask(window).double()

    def plain(qkv, table):
        return window_attention(qkv, table, mask, window=window, heads=heads, shifted=shifted, backend="plain")

    return gradients(plain, qkv.double(), table.double(), weight.double())


def in_kernels(case, shifted: bool, products: str, scale: float = 1.0) -> list[torch.Tensor]:
    """The same by the operator, whose outputs hold NaN before they are written."""
    qkv, table, weight = problem(*case, scale)
    window, heads = case[3:5]
    torch.use_deterministic_algorithms(True)  # fills new tensors
    try:
        shift = window // 2 if shifted else 0
        return gradients(
            lambda qkv, table: OPERATOR(qkv, table, window, heads, shift, products, True)[0], qkv, table, weight
        )
    finally:
        torch.use_deterministic_algorithms(False)


def errors(got: list[torch.Tensor], exact: list[torch.Tensor]) -> np.ndarray:
    return np.array([float((a - b).norm() / b.norm()) for a, b in zip(got, exact, strict=True)])


CASES = [  # images, height, width, window, heads, head_dim
    (1, 8, 8, 8, 1, 12),  # one window: every border at once
    (2, 8, 16, 8, 1, 29),
    (1, 24, 8, 8, 2, 33),
    (1, 16, 16, 16, 1, 16),  # no column of padding
]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_every_gradient_are_those_of_float64(kernels, case, shifted):
    exact = in_float64(case, shifted)
    for products in ("ieee", "tf32x3") if case[3] == 8 else ("tf32x3",):
        assert (errors(in_kernels(case, shifted, products), exact) < 1e-6).all(), products


def test_groups_of_windows_give_the_table_the_same_gradient(kernels, monkeypatch):
    case = (1, 24, 8, 8, 1, 5)  # 3 windows
    exact = in_float64(case, True)
    for programs in (1, 2):
        monkeypatch.setattr(kernels, "PROGRAMS", programs)
        assert (errors(in_kernels(case, True, "ieee"), exact) < 1e-6).all()


def test_offsets_of_64_bits_change_nothing(kernels, monkeypatch):
    case = (1, 8, 16, 8, 2, 12)
    narrow = in_kernels(case, True, "ieee")
    monkeypatch.setattr(kernels, "NARROW", 0)
    assert all(torch.equal(a, b) for a, b in zip(in_kernels(case, True, "ieee"), narrow, strict=True))


@pytest.fixture
def tensor_cores(kernels, monkeypatch):
    """Gives the interpreter tensor cores: factors cut off to TF32, and sums of eight rounded towards zero."""
    from triton._C.libtriton import ir
    from triton.runtime import interpreter

    def cut(x):
        return (x.view(np.int32) & np.int32(-0x2000)).view(np.float32)

    def towards_zero(x):
        nearest = x.astype(np.float32)
        return np.where(np.abs(nearest) > np.abs(x), np.nextafter(nearest, np.float32(0)), nearest)

    def create_dot(self, a, b, total, input_precision, _):
        a, b, result = a.data, b.data, total.data
        if input_precision == ir.INPUT_PRECISION.TF32:
            a, b = cut(a).astype(np.float64), cut(b).astype(np.float64)
            for k in range(0, a.shape[1], 8):
                result = towards_zero(result.astype(np.float64) + a[:, k : k + 8] @ b[k : k + 8])
        else:
            result = result + a @ b
        return interpreter.TensorHandle(result, total.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_three_products_have_the_exactness_of_float32_and_one_has_not(tensor_cores, scale):
    case = (1, 16, 16, 16, 1, 12)
    exact = in_float64(case, False, scale)
    qkv, table, weight = problem(*case, scale)
    mask = shift_mask(16)

    def plain(qkv, table):
        return window_attention(qkv, table, mask, window=16, heads=1, shifted=False, backend="plain")

    float32 = errors(gradients(plain, qkv, table, weight), exact)
    three = errors(in_kernels(case, False, "tf32x3", scale), exact)
    assert (three < np.array([1.25, 2, 2, 2, 2]) * float32).all()  # output, gradients; sums rounded to nearest: below 1
    one = errors(in_kernels(case, False, "tf32", scale), exact)
    assert (one > 100 * float32).all() and (one < 1e-2).all()


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from models.ops.attention import triton as kernels

def shared_memory(kernel, blocks, **more):
    constants = {"HEADS": 6, "D": 29, "P": 32, "W": 16, "SHIFT": 8, "PRECISION": "tf32x3", "WIDE": False, **more}
    constants |= kernels._cut(blocks, 256)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    constants |= {"STAGES": blocks.stages} if "STAGES" in kernel.arg_names else {}
    types = dict.fromkeys(("height", "width", "rest", "windows", "groups"), "i32") | {"scale": "fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, {name: types.get(name, "*fp32") for name in kernel.arg_names}, constants)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).metadata.shared

print(shared_memory(kernels._attention, kernels.FORWARD["tf32x3"], SAVE=True))
print(shared_memory(kernels._attention_queries, kernels.QUERIES))
print(shared_memory(kernels._attention_keys, kernels.KEYS_WIDE))
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_and_fit_it_twice(tmp_path):
    """Each uses at most half of the 227 KiB of shared memory that an H100 gives to programs."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", COMPILE], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(1024 < int(line) <= 227 * 1024 // 2 for line in done.stdout.split()) and len(done.stdout.split()) == 3


def test_operator_is_registered_as_pytorch_wants_it(kernels):
    qkv, table, _ = problem(1, 8, 16, 8, 2, 4)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    inputs = (qkv.requires_grad_(), table.requires_grad_(), 8, 2, 4, "ieee", True)
    torch.library.opcheck(OPERATOR, inputs, test_utils=checks)
    with pytest.raises(RuntimeError, match="save=False"):
        OPERATOR(qkv, table, 8, 2, 4, "ieee", False)[0].sum().backward()


def test_compiled_layer_has_one_graph_for_all_sizes_and_follows_the_precision(kernels, monkeypatch):
    monkeypatch.setattr(attention, "resolve", lambda *arguments: "triton")
    module, mask = layers.WindowAttention(8, 8, 2, True), shift_mask(8)
    torch.nn.init.normal_(module.relative_position_bias_table)
    graphs, asked = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    forward = kernels.forward
    monkeypatch.setattr(kernels, "forward", lambda *arguments: asked.append(arguments[5]) or forward(*arguments))

    def attend(qkv, mask):
        return module(Tokens(qkv), mask).read()

    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend=backend)
    for size in ((16, 8), (24, 16), (8, 32)):
        qkv = torch.randn(1, *size, 24)
        torch.testing.assert_close(compiled(qkv, mask), attend(qkv, mask))
    assert len(graphs) == 1
    monkeypatch.setattr(precision, "_products", "tf32x3")
    compiled(torch.randn(1, 16, 8, 24), mask)
    assert len(graphs) == 2 and asked[-1] == "tf32x3" and set(asked[:-1]) == {"ieee"}


@pytest.mark.parametrize("autocast", [False, True])
def test_types_of_the_output_and_of_the_gradients(kernels, monkeypatch, autocast):
    monkeypatch.setattr(attention, "resolve", lambda *arguments: "triton")
    qkv, table, _ = problem(1, 8, 8, 8, 1, 4)
    qkv, table = qkv.requires_grad_(), table.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = window_attention(qkv, table, shift_mask(8), window=8, heads=1, shifted=False)
    assert out.dtype == (torch.bfloat16 if autocast else torch.float32)
    out.sum().backward()  # the values of bfloat16 products mean nothing in the interpreter
    assert qkv.grad.dtype == table.grad.dtype == torch.float32
