"""The fast paths on a GPU: kernels, compiled layers and captured steps compute what plain PyTorch computes, and the
training step of light keeps within a 24 GB card. Skipped without a GPU."""

import dataclasses

import numpy as np
import pytest
import torch

import models
from models.ops.common.dispatch import without_kernels
from models.ops.depthwise import convolve
from models.ops.noise import PhiloxGumbel
from models.ops.norm import layer_norm
from models.ops.routing import by_class
from suites.data.pool import Pool
from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training import state, step
from suites.training.cuda_graph import WARM, GraphedStep

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

CUDA = torch.device("cuda")
SR2 = Task("sr", 2)


@pytest.fixture(autouse=True)
def poisoned():
    """Fresh memory holds values that no test would pass with."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("batch, length, tokens", [(1, 235_520, 64), (32, 4096, 64), (3, 70_001, 30), (1, 33_000, 256)])
def test_sorting_at_full_size(batch, length, tokens):
    classes = torch.randint(tokens, (batch, length), device=CUDA)
    assert torch.equal(by_class(classes, tokens), classes.argsort(dim=-1, stable=True))


@pytest.mark.parametrize("then, channels, kernel", [("gate", 24, 5), ("sigmoid", 348, 3), ("gelu", 348, 5)])
def test_depthwise_at_full_size(then, channels, kernel):
    conv = torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, device=CUDA)
    x, gate, dy = (torch.randn(2, 75, 133, channels, device=CUDA) for _ in range(3))
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs = [t.detach().to(dtype).requires_grad_() for t in (x, gate)]
        conv.to(dtype)
        y = convolve(conv, inputs[0], then, inputs[1] if then == "gate" else None)
        leaves = [inputs[0], conv.weight, conv.bias] + inputs[1:] * (then == "gate")
        results.append([y.detach(), *torch.autograd.grad(y, leaves, dy.to(dtype))])
    for found, exact in zip(*results, strict=True):
        assert float((found - exact).abs().max() / exact.abs().max()) < 5e-6


def test_layer_norm_at_full_size():
    for channels in (48, 174):
        norm = torch.nn.LayerNorm(channels, device=CUDA)
        x = (torch.randn(70_001, channels, device=CUDA) * 2 + 1).requires_grad_()
        dy = torch.randn_like(x)
        found = torch.autograd.grad(layer_norm(norm, x), [x, norm.weight, norm.bias], dy)
        exact = torch.autograd.grad(norm.double()(x.double()), [x, norm.weight, norm.bias], dy.double())
        for a, b in zip(found, exact, strict=True):
            assert float((a - b).abs().max() / b.abs().max()) < 5e-6


def network(name: str = "mambairv2-tiny", **overrides) -> torch.nn.Module:
    made = models.build(name, upscale=2, **overrides)
    for parameter_name, parameter in made.named_parameters():
        if ".route." in parameter_name or "embedding" in parameter_name:
            parameter.data *= 8  # classes that rounding does not decide, prompts that matter
    made.noise = PhiloxGumbel([2**63 + 9])
    return made.to(CUDA)


def run(made: torch.nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    y = made(image)
    weights = torch.linspace(-1, 1, y.numel(), device=CUDA).view_as(y)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), list(made.parameters()))]


@pytest.mark.parametrize("precision", ["fp32", "tf32x3"])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("overrides", [{}, {"ffn": "conv"}, {"scans": 2, "routing": "argmax"}], ids=str)
def test_fast_networks_are_as_exact_as_the_plain_one(overrides, compiled, precision):
    """Output and every gradient: their errors against float64 are at most a few times those of plain PyTorch."""
    made, image = network(backend="chunked", **overrides), torch.rand(1, 3, 40, 33, device=CUDA)
    exact = run(network(backend="chunked", **overrides).double(), image.double())
    made.compiled, made.backend = compiled, "auto"
    with models.precision(precision, CUDA):
        found = run(made, image)
        assert all(torch.equal(a, b) for a, b in zip(found, run(made, image), strict=True))  # and twice alike
        with torch.no_grad():
            assert compiled or torch.equal(made(image), found[0])  # past the dispatcher too
    made.compiled, made.backend = False, "chunked"
    with without_kernels():
        plain = run(made, image)
    for a, b, truth in zip(found, plain, exact, strict=True):
        size = float(truth.norm())
        assert float((a - truth).norm()) <= 4 * float((b - truth).norm()) + 1e-6 * size


def test_bf16_stays_near_float32():
    made, image = network(), torch.rand(1, 3, 40, 33, device=CUDA)
    with torch.no_grad():
        exact = made(image)
        with models.precision("bf16", CUDA):
            assert float((made(image) - exact).abs().mean()) < 0.01


def steps(tmp_path, precision: str, name: str = "mambairv2-tiny", batch: int = 4, patch: int = 32, **overrides):
    """A run, and batches for it."""
    budget = Budget("smoke", 2000, batch=batch, patch=patch, lr=1e-3, milestones=(1000,), precision=precision)
    spec = Cell(Variant("own", name, overrides), SR2, 0, budget, ("own",), ("own",), Protocol.official(SR2))
    made = models.build(name, upscale=2, **overrides).to(CUDA).train()
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (200, 180, 3), dtype=np.uint8)]
    pool = Pool(images, SR2, patch, batch, 0, CUDA)
    return state.Run(spec, made, {}, tmp_path, CUDA, "triton"), [pool.batch(pool.fetch(i)) for i in range(1, 9)]


SWITCHES = [  # every way through the network that an ablation takes
    *({"scans": n} for n in (0, 2, 4)),
    {"ase": "off"},
    {"ase": "off", "sgn": "off"},
    *({"prompt_target": target} for target in ("B", "delta", "y")),
    {"prompt_order": "semantic", "routing": "argmax"},
    {"prompt_sharing": "network"},
    {"inner_rank": None, "num_tokens": 128, "ffn": "conv"},
    {"embed_dim": 24},  # so many that gradients of convolutions' weights are kernels
]


@pytest.mark.parametrize(
    "precision, overrides", [("fp32", {}), ("tf32x3", {}), *(("bf16", switch) for switch in ({}, *SWITCHES))], ids=str
)
def test_a_captured_step_has_the_same_bits(tmp_path, precision, overrides):
    weights = []
    for captured in (False, True):
        with step.determinism(True):
            run_, batches = steps(tmp_path, precision, **overrides)
            assert isinstance(run_.work, GraphedStep)
            if not captured:
                run_.work = run_.stepper(captured=False)
            for batch in batches:
                run_.advance(batch)
            run_.read()
        assert len(batches) > WARM + 2 and len(run_.unlogged) == len(batches)
        weights.append((run_.unlogged, [p.detach().clone() for p in run_.model.parameters()]))
    assert weights[0][0] == weights[1][0]
    assert all(torch.equal(a, b) for a, b in zip(weights[0][1], weights[1][1], strict=True))


def test_the_step_of_light_fits_a_24_gb_card(tmp_path):
    run_, batches = steps(tmp_path, "fp32", "mambairv2-light", batch=32, patch=64)
    run_.advance(batches[0])
    torch.cuda.reset_peak_memory_stats()
    run_.advance(batches[1])
    run_.read()
    assert torch.cuda.max_memory_allocated() < 14 * 2**30


def test_no_labelled_step_waits_for_the_device(tmp_path):
    run_, batches = steps(tmp_path, "fp32")
    labelled = [dataclasses.replace(b, labels=torch.zeros(4, 32, 32, dtype=torch.int64, device=CUDA)) for b in batches]
    for batch in labelled[: WARM + 1]:
        run_.advance(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in labelled[WARM + 1 :]:
            run_.advance(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run_.read()
    assert np.isfinite(run_.unlogged).all()
