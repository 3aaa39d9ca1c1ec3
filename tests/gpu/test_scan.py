"""The scan and the routing noise on a GPU, against float64 and integers of the CPU. Skipped without a GPU."""

import pytest
import torch

from models.ops.noise import PhiloxGumbel
from models.ops.scan import BACKENDS, Prompt, attentive_scan, load

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

USABLE = [
    name
    for name in BACKENDS
    if (load(name).DEVICES is None or "cuda" in load(name).DEVICES) and load(name).unavailable() is None
]
CASES = [  # images, directions, pixels, channels, states, delta scale
    (1, 1, 67, 7, 4, 1.0),
    (2, 2, 131, 19, 8, 8.0),
    (1, 4, 33, 48, 16, 40.0),
    (2, 1, 1030, 33, 8, 1.0),
    (3, 2, 515, 50, 21, 1.0),
    (1, 1, 777, 18, 64, 1.0),
    (1, 1, 1, 48, 8, 1.0),
]


def run(case, backend, device, dtype, memory=None):
    """Output and all gradients, on the CPU in float64."""
    batch, directions, length, channels, states, scale = case
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    def leaf(x):
        return x.to(device, dtype).requires_grad_()

    pixels, tokens = (batch, directions, length), 11
    tensors = [normal(batch, length, channels), normal(*pixels, channels) * scale]
    tensors += [-normal(directions, channels, states).exp(), normal(*pixels, states), normal(*pixels, states)]
    tensors += [normal(directions, channels), normal(directions, channels)]
    tensors = [leaf(x) for x in tensors]
    order = torch.rand(pixels, generator=g).argsort(2).to(device)
    classes = torch.randint(tokens, (batch, length), generator=g).to(device)
    prompt = Prompt(leaf(normal(tokens, states)), classes, leaf(normal(batch, length, tokens).softmax(-1)), None)
    y = attentive_scan(*tensors, order=order, prompt=prompt, backend=backend, memory=memory)
    weights = normal(*pixels, channels).to(y)
    inputs = [*tensors, prompt.table, prompt.soft]
    grads = torch.autograd.grad(y, inputs, weights, allow_unused=memory == 1)  # A has no part in it then
    return [x.detach().double().cpu() for x in (y, *grads) if x is not None]


@pytest.fixture
def poisoned():
    """Memory that nothing has written is NaN."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = before


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_every_gradient_twice_alike(case, backend, poisoned):
    expected = run(case, "chunked", "cpu", torch.float64)
    first, second = (run(case, backend, "cuda", torch.float32) for _ in range(2))
    names = ("y", "u", "delta", "A", "B", "C", "D", "delta_bias", "table", "soft")
    for name, got, again, exact in zip(names, first, second, expected, strict=True):
        assert torch.equal(got, again), name
        error, size = float((got - exact).abs().max()), float(exact.abs().max())
        assert error <= 3e-6 * size, f"{name}: {error:.1e} of {size:.1e}"  # dA of a single step is zero


@pytest.mark.parametrize("memory", [1, 4, 7])
@pytest.mark.parametrize("case", [(2, 2, 131, 19, 8, 8.0), (2, 1, 1030, 48, 8, 1.0)], ids=str)
def test_a_state_that_starts_anew_twice_alike(case, memory, poisoned):
    exact = run(case, "chunked", "cpu", torch.float64, memory)
    found, again = (run(case, "auto", "cuda", torch.float32, memory) for _ in range(2))
    for got, repeated, expected in zip(found, again, exact, strict=True):
        assert torch.equal(got, repeated)
        assert float((got - expected).abs().max()) <= 5e-6 * float(expected.abs().max())


@pytest.mark.parametrize("backend", [name for name in USABLE if name != "reference"])
@pytest.mark.parametrize("permuted", [False, True], ids=["in order", "permuted"])
def test_an_image_of_230400_tokens_twice_alike(permuted, backend, poisoned):
    """One image of 360 x 640 pixels and 48 channels, the same inputs in float64 on the GPU as truth."""
    length, channels, states, tokens = 360 * 640, 48, 8, 64
    g = torch.Generator("cuda").manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=g, device="cuda", dtype=torch.float64)

    tensors = [normal(1, length, channels), normal(1, 1, length, channels), -normal(1, channels, states).exp()]
    tensors += [normal(1, 1, length, states), normal(1, 1, length, states), normal(1, channels), normal(1, channels)]
    tensors += [normal(tokens, states), normal(1, length, tokens).softmax(-1)]
    classes = torch.randint(tokens, (1, length), generator=g, device="cuda")
    order = torch.argsort(classes, dim=1, stable=True).unsqueeze(1) if permuted else None
    weights = normal(1, 1, length, channels)

    def gradients(name, dtype):
        inputs = [x.to(dtype).requires_grad_() for x in tensors]
        prompt = Prompt(inputs[7], classes, inputs[8], order)
        y = attentive_scan(*inputs[:7], order=order, prompt=prompt, backend=name)
        return [y.detach(), *torch.autograd.grad(y, inputs, weights.to(dtype))]

    expected = gradients("chunked", torch.float64)
    first, second = gradients(backend, torch.float32), gradients(backend, torch.float32)
    names = ("y", "u", "delta", "A", "B", "C", "D", "delta_bias", "table", "soft")
    for name, got, again, exact in zip(names, first, second, expected, strict=True):
        assert torch.equal(got, again), name
        error = float(torch.linalg.vector_norm(got - exact) / torch.linalg.vector_norm(exact))
        assert error < 3e-6, f"{name}: {error:.1e}"


@pytest.mark.parametrize("backend", [name for name in USABLE if name != "reference"])
@pytest.mark.parametrize("case", [(1, 1, 230400, 48, 8), (2, 2, 20011, 174, 16), (8, 1, 4096, 33, 8)], ids=str)
def test_bfloat16_twice_alike(case, backend, poisoned):
    """Half a unit in the last place of what is stored in bfloat16, the same values in float64 on the GPU as truth."""
    batch, directions, length, channels, states = case
    pixels, tokens = (batch, directions, length), 64
    g = torch.Generator("cuda").manual_seed(0)

    def normal(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=g, device="cuda").to(dtype)

    half = torch.bfloat16
    tensors = [normal(batch, length, channels, dtype=half), normal(*pixels, channels, dtype=half)]
    tensors += [-normal(directions, channels, states).exp()]
    tensors += [normal(*pixels, states, dtype=half), normal(*pixels, states, dtype=half)]
    tensors += [normal(directions, channels), normal(directions, channels)]
    tensors += [normal(tokens, states), normal(batch, length, tokens).softmax(-1)]
    classes = torch.randint(tokens, (batch, length), generator=g, device="cuda")
    order = classes.argsort(dim=1, stable=True).unsqueeze(1).expand(-1, directions, -1)
    weights = normal(*pixels, channels, dtype=half)

    def gradients(name, inputs):
        inputs = [x.detach().requires_grad_() for x in inputs]
        y = attentive_scan(*inputs[:7], order=order, prompt=Prompt(inputs[7], classes, inputs[8], order), backend=name)
        return [y.detach(), *torch.autograd.grad(y, inputs, weights.to(y.dtype))]

    expected = gradients("chunked", [x.double() for x in tensors])
    first, second = gradients(backend, tensors), gradients(backend, tensors)
    names = ("y", "u", "delta", "A", "B", "C", "D", "delta_bias", "table", "soft")
    types = [half, *(x.dtype for x in tensors)]
    for name, dtype, got, again, exact in zip(names, types, first, second, expected, strict=True):
        assert got.dtype == dtype and torch.equal(got, again), name
        allowed = 1e-5 * exact.abs().max() + (2**-8 * exact.abs() if dtype == half else 0)
        assert ((got - exact).abs() <= allowed).all(), name


def test_noise_has_the_same_integers_as_on_the_cpu():
    source, shape = PhiloxGumbel([2**63 + 5, 7]), (2, 1000, 30)
    assert torch.equal(source.integers(3, shape, "cuda").cpu(), source.integers(3, shape))
    torch.testing.assert_close(source(3, shape, "cuda").cpu(), source(3, shape), rtol=1e-6, atol=1e-6)
