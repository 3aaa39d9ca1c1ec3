"""The Triton backend of the attentive scan in Triton's interpreter, against float64; that it compiles for a GPU."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from models.ops.scan import BackendError, Prompt, attentive_scan, triton

pytest.importorskip("triton", reason="needs Triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("kernels run on the GPU here: tests/gpu/test_scan.py", allow_module_level=True)

NAMES = ("y", "u", "delta", "A", "B", "C", "D", "delta_bias", "table", "soft")


@pytest.fixture(autouse=True)
def many_small_chunks_and_poisoned_memory(monkeypatch):
    """As on a GPU with many multiprocessors; whatever is not written is NaN."""
    monkeypatch.setattr(triton, "MIN_CHUNK", 8)
    monkeypatch.setattr(triton, "CARRIED", 2)
    monkeypatch.setattr(triton, "_multiprocessors", lambda index: 100)
    threads, fill = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.set_num_threads(threads)


def problem(batch, directions, length, channels, states, order="random", prompts=True, scale=1.0, tokens=5):
    """Float64 inputs: tensors in the order of NAMES from u on, then order, classes and the weights of the output."""
    g = torch.Generator().manual_seed(length + states)

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    pixels = (batch, directions, length)
    tensors = [normal(batch, length, channels), normal(*pixels, channels) * scale]
    tensors += [-normal(directions, channels, states).exp(), normal(*pixels, states), normal(*pixels, states)]
    tensors += [normal(directions, channels), normal(directions, channels)]
    if prompts:
        tensors += [normal(tokens, states), normal(batch, length, tokens).softmax(-1)]
    classes = torch.randint(tokens, (batch, length), generator=g)
    keys = torch.randint(3, pixels, generator=g) if order == "sorted" else torch.rand(pixels, generator=g)
    visited = None if order is None else torch.argsort(keys, dim=2, stable=True)
    return tensors, visited, classes if prompts else None, normal(*pixels, channels)


def gradients(tensors, order, classes, weights, backend, dtype, narrow=()):
    """y and the gradients; inputs named in `narrow` are bfloat16."""
    types = [torch.bfloat16 if name in narrow else dtype for name in NAMES[1:]]
    tensors = [x.to(t).requires_grad_() for x, t in zip(tensors, types, strict=False)]
    prompt = None if classes is None else Prompt(tensors[7], classes, tensors[8], order)
    y = attentive_scan(*tensors[:7], order=order, prompt=prompt, backend=backend)
    return [y.detach(), *torch.autograd.grad(y, tensors, weights.to(y.dtype))]


def assert_exact(got, expected):
    for name, value, exact in zip(NAMES, got, expected, strict=False):
        error = float((value.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))
        assert error < 1e-6, f"{name}: {error:.1e}"


@pytest.mark.parametrize(
    "case",
    [
        (1, 1, 1, 3, 5),
        (1, 1, 9, 2, 1, None, False),
        (2, 1, 21, 5, 2, "random", False, 40.0),
        (1, 2, 19, 18, 2, "sorted", True, 8.0),
        (1, 4, 9, 3, 2, None, True),
    ],
    ids=str,
)
def test_forward_and_every_gradient(case):
    x = problem(*case)
    assert_exact(gradients(*x, "triton", torch.float32), gradients(*x, "chunked", torch.float64))


@pytest.fixture
def rounding(monkeypatch):
    """Gives the interpreter a GPU's conversion to bfloat16, to the nearest one: its own cuts off."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def nearest(x, before, after, mode):
        if after != tl.bfloat16:
            return convert(x, before, after, mode)
        return torch.from_numpy(np.ascontiguousarray(x)).bfloat16().view(torch.int16).numpy().view(np.uint16)

    monkeypatch.setattr(interpreter, "_convert_float", nearest)


@pytest.mark.parametrize(
    ("case", "narrow", "parts"),
    [
        ((2, 1, 9, 5, 3), ("u", "delta", "B", "C"), 1),
        ((1, 1, 9, 18, 2, "sorted", True, 8.0), ("u", "delta", "B", "C"), 1),
        ((1, 2, 9, 2, 3, None, False), ("u", "delta", "B", "C"), 2),
        ((1, 1, 9, 6, 2), ("u", "C"), 1),
        ((1, 1, 9, 3, 2), ("delta", "B"), 1),
    ],
    ids=str,
)
def test_bfloat16_is_read_and_written_as_it_is(case, narrow, parts, rounding, monkeypatch):
    """Rounded once, when a result is stored: sums of several parts, blocks or directions are float32 until then."""
    if parts > 1:
        monkeypatch.setattr(triton, "FORWARD_PART", 2)
        monkeypatch.setattr(triton, "BACKWARD_PART", 2)
    tensors, order, classes, weights = problem(*case)
    tensors = [x.bfloat16().double() if n in narrow else x for n, x in zip(NAMES[1:], tensors, strict=False)]
    weights = weights.bfloat16().double()
    expected = gradients(tensors, order, classes, weights, "chunked", torch.float64)
    got = gradients(tensors, order, classes, weights, "triton", torch.float32, narrow)
    for name, value, exact in zip(NAMES, got, expected, strict=False):
        halved = name in narrow or (name == "y" and "u" in narrow)
        assert value.dtype == (torch.bfloat16 if halved else torch.float32), name
        allowed = 1e-6 * exact.abs().max() + (2**-8 * exact.abs() if halved else 0)
        assert ((value.double() - exact).abs() <= allowed).all(), name


def test_states_in_parts(monkeypatch):
    """Three states, two at a time: the second part adds to what the first has written."""
    monkeypatch.setattr(triton, "FORWARD_PART", 2)
    monkeypatch.setattr(triton, "BACKWARD_PART", 2)
    x = problem(1, 1, 9, 3, 3)
    assert_exact(gradients(*x, "triton", torch.float32), gradients(*x, "chunked", torch.float64))


def test_programs_that_take_several_blocks_of_channels(monkeypatch):
    """Two programs for four blocks; then the second block of a program adds to dB and dC of the first."""
    for name, value in {"SHORT_CHUNK": 5, "BACKWARD_WARPS": 1, "_multiprocessors": lambda index: 1}.items():
        monkeypatch.setattr(triton, name, value)
    x = problem(1, 1, 6, 50, 2)
    assert_exact(gradients(*x, "triton", torch.float32), gradients(*x, "chunked", torch.float64))


def test_wide_offsets_and_odd_addresses_give_the_same_bits(monkeypatch):
    tensors, *rest = problem(1, 1, 13, 6, 2)
    first = gradients(tensors, *rest, "triton", torch.float32)
    monkeypatch.setattr(triton, "NARROW", 0)
    assert all(
        torch.equal(a, b) for a, b in zip(first, gradients(tensors, *rest, "triton", torch.float32), strict=True)
    )
    wide = torch.nn.functional.pad(tensors[1], (1, 0))  # rows of seven numbers, from the second on
    tensors[1] = wide.float()[..., 1:]
    again = gradients(tensors, *rest, "triton", torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_pairs_are_words_where_every_row_lies_on_a_whole_one():
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.empty(2, 5, 8, dtype=dtype)
        assert triton._paired(x) and triton._paired(x[1:, ::3, 2:])
        assert not triton._paired(x[..., 1:]) and not triton._paired(x.view(-1)[:77].view(7, 11))


def test_offsets_of_64_bits_from_where_32_do_not_suffice():
    def wide(length, channels):
        u, A = torch.empty(1, length, channels, device="meta"), torch.empty(1, channels, 8, device="meta")
        delta, B = u.unsqueeze(1), torch.empty(1, 1, length, 8, device="meta")
        return triton._Call(u, delta, A, B, B, A[..., 0], None, None, None).sizes["WIDE"]

    assert wide(7680 * 4320, 348)
    assert not wide(7680 * 4320, 48)
    assert wide(2**32 // 48 + 1, 48)


def test_what_it_cannot_take_is_refused():
    tensors, order, *_ = problem(1, 1, 3, 2, 65, prompts=False)
    with pytest.raises(BackendError, match="holds 64 states, not 65"):
        attentive_scan(*(x.float() for x in tensors), order=order, backend="triton")
    with pytest.raises(BackendError, match="float64"):
        attentive_scan(*tensors, order=order, backend="triton")


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from models.ops.scan.triton import backward_kernels, forward_kernels

KERNELS = {"ends_kernel", "carry_kernel", "replay_kernel", "adjoint_kernel", "collect_kernel"}
NARROW = {"ends_kernel", "replay_kernel", "adjoint_kernel"}
found = {name: kernel for module in (forward_kernels, backward_kernels) for name, kernel in vars(module).items()}
CHANNELS = {"u", "v", "delta", "B", "C", "M", "y", "dy", "du", "ddelta"}
for name, half in [(name, "*fp32") for name in sorted(KERNELS)] + [(name, "*bf16") for name in sorted(NARROW)]:
    kernel = found[name]
    states = 2 if half == "*fp32" else 1
    constants = {"E": 48, "N": states, "PART": states, "WIDE": False, "PAIRED": True, "ADJOINT": True}
    constants |= {name: 48 for name in kernel.arg_names if name.endswith("_ROW")}
    constants |= {"COLUMNS": 2, "CHUNKS": 1024, "COUNT": 256}
    numbers = {"L", "S", "chunk", "K", "count", "KE", "teams"}
    numbers |= {name for name in kernel.arg_names if name.endswith(("_batch", "_direction"))}
    types = dict.fromkeys(numbers, "i32") | {"order": "*i64", "classes": "*i64"} | dict.fromkeys(CHANNELS, half)
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types |= dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
    triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True)
