"""Operators at the sizes of light x2: every way of taking each that runs here, against float64 or the definition."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from models.ops import attention, scan
from models.ops.common.dispatch import has_kernels, without_kernels
from models.ops.depthwise import convolve
from models.ops.noise import PhiloxGumbel, integers
from models.ops.norm import layer_norm
from models.ops.routing import by_class
from suites.benchmark import kernels

LIGHT = {"channels": 48, "states": 8, "classes": 64}
SCANS = {  # (batch, length): of a 64x64 patch, and on a GPU of a training batch and of a 360x640 image
    "cpu": ((1, 4096),),
    "cuda": ((32, 4096), (1, 230400)),
}
SIDES = {"cpu": ((1, 64, 64),), "cuda": ((32, 64, 64), (1, 368, 640))}  # (batch, height, width)


def cases(table: dict[str, tuple], device: torch.device, number: int) -> tuple:
    if number >= len(table[device.type]):
        pytest.skip(f"no such case on {device.type}")
    return table[device.type][number]


def gradients(outputs: Tensor, inputs: list[Tensor], weights: Tensor) -> list[Tensor]:
    return [outputs.detach(), *torch.autograd.grad(outputs, inputs, weights)]


# --- the scan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("trains", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("backend", scan.BACKENDS)
def bench_scan(measure, device, backend, trains, number):
    batch, length = cases(SCANS, device, number)
    module = scan.load(backend)
    if (reason := module.unavailable()) or (module.DEVICES and device.type not in module.DEVICES):
        pytest.skip(reason or f"not a backend of {device.type}")
    if backend == "triton" and device.type == "cpu":
        pytest.skip("Triton's interpreter is no measurement")
    if backend == "reference" and length > 4096:
        pytest.skip("a loop over the steps takes minutes")
    case = kernels.ScanCase(kernels.MODES[trains], batch, LIGHT["channels"], LIGHT["states"], length)
    tensors = kernels.random_inputs(case, device)
    exact = kernels.exact(tensors, trains)
    measure(case.name, partial(kernels.scanned, tensors, backend, trains), exact, kernels.TOLERANCE)


# --- window attention ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("trains", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("backend", attention.BACKENDS)
def bench_attention(measure, device, backend, trains, number):
    if backend == "triton" and (device.type == "cpu" or attention.unavailable(device)):
        pytest.skip(attention.unavailable(device) or "Triton's interpreter is no measurement")
    shape = cases(SIDES, device, number)
    g = torch.Generator().manual_seed(0)
    qkv = torch.randn(*shape, 3 * 48, generator=g).to(device)
    table = torch.randn(31**2, 4, generator=g).to(device)
    weights = torch.randn(*shape, 48, generator=g).to(device)
    mask = attention.shift_mask(16).to(device)

    def attend(dtype: torch.dtype, backend: str) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_(trains) for x in (qkv.detach(), table.detach())]
        form = {"window": 16, "heads": 4, "shifted": True, "backend": backend}
        with torch.set_grad_enabled(trains):
            out = attention.window_attention(*leaves, mask.to(dtype), **form)
        return gradients(out, leaves, weights.to(dtype)) if trains else [out]

    exact = attend(torch.float64, "plain")
    name = f"attention {'forward+backward' if trains else 'forward'}, {'x'.join(map(str, shape))} 4 heads of 12"
    measure(name, partial(attend, torch.float32, backend), exact, 1e-5)


# --- depthwise convolutions, norms ---------------------------------------------------------------------------------


def needs(kernels: bool, x: Tensor) -> None:
    if kernels and not has_kernels(x):
        pytest.skip("no kernels for this device (see models.ops.common.dispatch)")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("then, channels, kernel", [("gate", 24, 5), ("sigmoid", 48, 3)])
@pytest.mark.parametrize("kernels", [False, True], ids=["plain", "kernels"])
def bench_depthwise(measure, device, kernels, then, channels, kernel, number):
    shape = cases(SIDES, device, number)
    g = torch.Generator().manual_seed(0)
    x, gate, weights = (torch.randn(*shape, channels, generator=g).to(device) for _ in range(3))
    needs(kernels, x)
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels).to(device)

    def run(dtype: torch.dtype, fused: bool) -> list[Tensor]:
        conv.to(dtype)
        leaf = x.to(dtype).requires_grad_()
        with without_kernels(not fused):
            out = convolve(conv, leaf, then, gate.to(dtype) if then == "gate" else None)
        return gradients(out, [leaf, conv.weight], weights.to(dtype))

    exact = run(torch.float64, False)
    conv.float()
    name = f"depthwise {kernel}x{kernel} and {then}, forward+backward, {'x'.join(map(str, shape))}x{channels}"
    measure(name, partial(run, torch.float32, kernels), exact, 1e-5)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("channels", [48, 174])
@pytest.mark.parametrize("kernels", [False, True], ids=["plain", "kernels"])
def bench_norm(measure, device, kernels, channels, number):
    shape = cases(SIDES, device, number)
    g = torch.Generator().manual_seed(0)
    x, weights = (torch.randn(*shape, channels, generator=g).to(device) for _ in range(2))
    needs(kernels, x)
    norm = nn.LayerNorm(channels).to(device)

    def run(dtype: torch.dtype, fused: bool) -> list[Tensor]:
        norm.to(dtype)
        leaf = x.to(dtype).requires_grad_()
        with without_kernels(not fused):
            out = layer_norm(norm, leaf)
        return gradients(out, [leaf, norm.weight, norm.bias], weights.to(dtype))

    exact = run(torch.float64, False)
    norm.float()
    name = f"layer norm, forward+backward, {'x'.join(map(str, shape))}x{channels}"
    measure(name, partial(run, torch.float32, kernels), exact, 1e-5)


# --- routing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("kernels", [False, True], ids=["plain", "kernels"])
def bench_sort(measure, device, kernels, number):
    batch, length = cases(SCANS, device, number)
    g = torch.Generator().manual_seed(0)
    classes = torch.randint(LIGHT["classes"], (batch, length), generator=g).to(device)
    needs(kernels, torch.empty(0, device=device))
    position = torch.arange(length, device=device)
    exact = (classes * length + position).argsort(dim=-1)  # unequal keys: any sort is stable
    name = f"sort by 64 classes, B{batch} L{length}"

    def sort() -> list[Tensor]:
        with without_kernels(not kernels):
            return [by_class(classes, LIGHT["classes"])]

    measure(name, sort, [exact], 0)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("way", ["chosen", "plain"])
def bench_noise(measure, device, way, number):
    batch, length = cases(SCANS, device, number)
    keys = torch.arange(batch, device=device) + 2**40
    shape = (batch, length, LIGHT["classes"])
    exact = integers(keys.cpu(), 3, (batch, min(length, 4096), LIGHT["classes"]))  # a counter knows no length

    def chosen() -> list[Tensor]:
        return [PhiloxGumbel(keys).integers(3, shape, device)]

    def plain() -> list[Tensor]:
        return [integers(keys, 3, shape)]

    call = chosen if way == "chosen" else plain
    assert torch.equal(call()[0][:, : exact.shape[1]].cpu(), exact)
    measure(f"integers of the noise, B{batch} L{length} T64", call, plain(), 0)
