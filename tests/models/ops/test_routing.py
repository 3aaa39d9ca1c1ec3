"""Routing in a kernel: its noise, classes and gradient against plain PyTorch; sorting by class; keys that stay put.

Kernels run on a GPU where there is one, else in Triton's interpreter.
"""

import os

import pytest
import torch

from models.ops.noise import PhiloxGumbel
from models.ops.noise.reference import BELOW_ONE
from models.ops.routing import by_class, route

triton = pytest.importorskip("triton", reason="needs Triton")
tl = pytest.importorskip("triton.language")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KEYS = [2**63 + 5, 7, 2**64 - 1]
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or Triton's interpreter (TRITON_INTERPRET=1)", allow_module_level=True)

from models.ops.noise.triton import gumbel  # noqa: E402


@triton.jit
def write_gumbel(words, out, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, gumbel(tl.load(words + i, mask=i < count, other=0).to(tl.uint32)), mask=i < count)


@pytest.fixture(scope="module", autouse=True)
def poisoned():
    torch.use_deterministic_algorithms(True)  # fills fresh memory with values that no test would pass with
    yield
    torch.use_deterministic_algorithms(False)


def example(batch: int, length: int, tokens: int, inner: int, keys: int) -> dict[str, torch.Tensor]:
    """Arguments of `route`; `keys` of them, or none."""
    generator = torch.Generator().manual_seed(batch * length + tokens)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(DEVICE)

    return {
        "hidden": normal(batch, length, inner),
        "weight": normal(tokens, inner) * inner**-0.5,
        "bias": normal(tokens),
        "keys": PhiloxGumbel(KEYS[:keys]).keys.to(DEVICE) if keys else None,
        "layer": torch.tensor(3, device=DEVICE),
    }


def scores(given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits plus noise in float64, on the CPU, by the official way: LogSoftmax first."""
    logits = given["hidden"].double() @ given["weight"].double().t() + given["bias"]
    logits = logits.log_softmax(-1).cpu()
    return logits if given["keys"] is None else logits + PhiloxGumbel(given["keys"].cpu())(3, logits.shape).double()


CASES = [(2, 37, 6, 4, 2), (1, 50, 30, 16, 1), (3, 70, 64, 16, 1), (1, 130, 64, 16, 0), (1, 9, 128, 58, 1)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_classes_and_gradients_are_those_of_plain_float64(case):
    given = example(*case)
    leaves = [given[name].double().cpu().requires_grad_() for name in ("hidden", "weight", "bias")]
    plain = {**given, **dict(zip(("hidden", "weight", "bias"), leaves, strict=True))}
    expected = scores(plain)
    for name in ("hidden", "weight", "bias"):
        given[name].requires_grad_()
    classes, carrier = route(**given, learns=True)
    assert classes.dtype == torch.int64 and classes.shape == given["hidden"].shape[:2]
    first, second = expected.detach().topk(2, -1).values.unbind(-1)
    clear = first - second > 1e-5
    assert clear.float().mean() > 0.99
    assert torch.equal(classes.cpu()[clear], expected.argmax(-1)[clear])

    assert carrier.shape == expected.shape and carrier.untyped_storage().nbytes() == 4 and not carrier.any()
    weights = torch.randn(expected.shape, dtype=torch.float64)
    grads = torch.autograd.grad(carrier, [given[name] for name in ("hidden", "weight", "bias")], weights.to(carrier))
    exact = torch.autograd.grad(expected.softmax(-1), leaves, weights)
    for grad, truth in zip(grads, exact, strict=True):
        assert float((grad.cpu() - truth).abs().max() / truth.abs().max()) < 2e-6


def test_nothing_is_carried_where_nothing_learns():
    assert route(**example(1, 8, 6, 4, 1), learns=False)[1] is None


def test_noise_depends_on_key_layer_and_place_as_everywhere():
    """Equal logits: the class is that of the noise alone."""
    zero = {"hidden": torch.zeros(2, 60, 4), "weight": torch.zeros(12, 4), "bias": torch.zeros(12)}
    zero = {name: x.to(DEVICE) for name, x in zero.items()}
    for layer in (0, 3):
        for keys in ([5], [5, 2**63 + 1]):
            source = PhiloxGumbel(keys)
            classes, _ = route(
                **zero, keys=source.keys.to(DEVICE), layer=torch.tensor(layer, device=DEVICE), learns=False
            )
            assert torch.equal(classes.cpu(), source(layer, (2, 60, 12)).argmax(-1))


def test_noise_of_every_kind_of_integer():
    """At the ends, where float32 begins to round, and in between: within a few roundings of the exact value."""
    around = [torch.arange(2**k - 40, 2**k + 40) for k in range(6, 32)]
    words = torch.cat([torch.arange(3000), 2**32 - 1 - torch.arange(3000), *around]).to(DEVICE)
    out = torch.empty(len(words), device=DEVICE)
    write_gumbel[(triton.cdiv(len(words), 4096),)](words, out, len(words), 4096)
    u = ((words.cpu().double() + 0.5) * 2.0**-32).float().clamp(max=BELOW_ONE).double()
    exact = -torch.log(-torch.log(u))
    assert float(((out.cpu() - exact).abs() / exact.abs().clamp(min=1)).max()) < 5e-7


def test_logits_that_are_not_numbers_still_give_classes():
    given = example(1, 40, 6, 4, 1)
    given["bias"] = given["bias"] * float("nan")
    classes, _ = route(**given, learns=False)
    assert set(classes.flatten().tolist()) <= set(range(6))


def test_the_operators_are_well_formed():
    given = example(2, 9, 6, 4, 2)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.mambair_bench.route, tuple(given.values()), test_utils=checks)
    torch.library.opcheck(
        torch.ops.mambair_bench.route_backward,
        (torch.randn(2, 9, 6, device=DEVICE), *given.values()),
        test_utils=checks,
    )
    torch.library.opcheck(
        torch.ops.mambair_bench.by_class, (torch.randint(6, (2, 50), device=DEVICE), 6), test_utils=checks
    )


@pytest.mark.parametrize(
    "shape, tokens", [((1, 5000), 64), ((3, 700), 30), ((2, 17), 128), ((1, 300), 256), ((2, 1), 1)]
)
def test_pixels_are_sorted_by_class_and_stably(shape, tokens, in_kernels):
    classes = torch.randint(tokens, shape, device=DEVICE)
    order = by_class(classes, tokens)
    assert torch.equal(order, classes.argsort(dim=-1, stable=True))
    assert torch.equal(by_class(classes[:, None].expand(-1, 2, -1), tokens)[:, 1], order)
    one_class = torch.full(shape, tokens - 1, device=DEVICE)
    assert torch.equal(by_class(one_class, tokens), torch.arange(shape[1]).expand(shape).to(DEVICE))


@pytest.fixture
def in_kernels(monkeypatch):
    """Kernels also for tensors on a CPU, in the interpreter."""
    monkeypatch.setattr("models.ops.common.dispatch.has_kernels", lambda x: x.dtype != torch.float64)


def test_keys_that_are_on_the_device_are_not_read_back():
    keys = torch.tensor([1, 2], device=DEVICE)
    assert PhiloxGumbel(keys).on(DEVICE, 2) is keys
