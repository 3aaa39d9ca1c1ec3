"""A layer and whole networks of light x2: the fast way, and the plain one with the scan as a loop, in one run."""

from functools import partial

import pytest
import torch
from torch import Tensor

import models
from models.mambairv2 import Context
from models.ops import scan
from models.ops.common.dispatch import without_kernels
from models.ops.routing import RoutingNoise
from suites.benchmark.model import BenchmarkModel, scale_init
from suites.spec import Task

SR2 = Task("sr", 2)


def ways(device: torch.device) -> list[str]:
    """Scan backends that are worth measuring on a device; "reference" is the plain network with a loop for a scan."""
    found = [name for name, reason in scan.available().items() if reason is None]
    fitting = [name for name in found if scan.load(name).DEVICES is None or device.type in scan.load(name).DEVICES]
    return [name for name in fitting if name != "triton" or device.type == "cuda"]


def skip_unless_it_runs(backend: str, device: torch.device) -> None:
    if backend not in ways(device):
        pytest.skip(f"not on {device.type}")


@pytest.mark.parametrize("backend", scan.BACKENDS)
def bench_layer(measure, device, backend):
    """One layer without gradients, [1, 64, 64, 48], routed by argmax."""
    skip_unless_it_runs(backend, device)
    network = models.build("mambairv2-light", upscale=2, routing="argmax").eval()
    scale_init(network)
    network.to(device)
    layer = network.layers[0].residual_group["layers"][1]
    x = torch.randn(1, 64, 64, 48, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.randint(64, (1, 4096), generator=torch.Generator().manual_seed(1)).to(device)

    def run(x: Tensor, backend: str) -> list[Tensor]:
        with torch.no_grad(), without_kernels(backend == "reference"):
            noise = RoutingNoise.of(None, network.conv_first.weight, len(x))
            context = Context(network.mask, None, labels, None, noise, "raster", backend)
            return [layer(x, context)]

    network.double()
    exact = run(x.double(), "chunked")
    network.float()
    measure("layer of light forward, 64x64", partial(run, x, backend), exact, 1e-4)


def checked(measure, name: str, model: BenchmarkModel, precision: str, backend: str, tolerance: float) -> None:
    """Compares with the plain network in float32 (suites.benchmark.model), then times the call itself."""
    how = precision, backend, "eager"
    call = partial(model.call, *how)
    expected = model.reference(given=False)
    values = model.result(*how)

    def result() -> list[Tensor]:
        output = call()
        return [output.detach()] if model.mode == "inference" else [output]

    error = max(float((a - b).norm() / b.norm()) for a, b in zip(values, expected, strict=True) if float(b.norm()) > 0)
    assert error <= tolerance, f"relative error {error:.1e}: not timed"
    measure(name, result, result(), tolerance)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backend", scan.BACKENDS)
def bench_network(measure, device, backend, precision):
    """Light x2 on a 64x64 image; "reference" is the goal's yardstick on a CPU."""
    skip_unless_it_runs(backend, device)
    if precision == "bf16" and (device.type == "cpu" or backend == "reference"):
        pytest.skip("bf16 is for GPUs")
    model = BenchmarkModel("mambairv2-light", {}, SR2, "inference", (64, 64), 1, device)
    checked(measure, "light x2 inference, 64x64", model, precision, backend, 1e-3 if precision == "fp32" else 5e-2)


@pytest.mark.parametrize("backend", [name for name in scan.BACKENDS if name != "reference"])
def bench_training_step(measure, device, backend):
    """Forward, backward and Adam: the tiny network of the smoke suite on a CPU, light with batch 32 on a GPU."""
    skip_unless_it_runs(backend, device)
    name, size, batch = ("mambairv2-tiny", 24, 8) if device.type == "cpu" else ("mambairv2-light", 64, 32)
    model = BenchmarkModel(name, {}, SR2, "training", (size, size), batch, device)
    checked(measure, f"{name} x2 training step, {size}x{size} x{batch}", model, "fp32", backend, 1e-2)
