"""What the machine itself can do: the ceilings that a network's rates are held against."""

from collections.abc import Callable

import torch

from suites.benchmark.timing import StopWatch

READINGS = 10
COPIED = {"cuda": 2**31, "cpu": 2**28}  # bytes: more than any cache holds
SIDE = {"cuda": 8192, "cpu": 2048}  # of square matrices


def measure(device: torch.device) -> dict[str, float]:
    """bytes_per_s of a copy (read and written), and operations per second of matrix products by precision: two for a
    multiply-add. Medians."""
    watch, kind = StopWatch(device), device.type
    found = {"bytes_per_s": 2 * COPIED[kind] / _copying(watch, COPIED[kind] // 4, device)}
    side = SIDE[kind]
    draw = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=draw) for _ in range(2))
    names = ("fp32", "tf32", "bf16") if kind == "cuda" else ("fp32",)
    before = torch.get_float32_matmul_precision()
    for name in names:
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        x, y = (m.bfloat16() if name == "bf16" else m for m in (a, b))
        found[name] = 2 * side**3 / _seconds(watch, lambda x=x, y=y: x @ y)
    torch.set_float32_matmul_precision(before)
    return found


def _copying(watch: StopWatch, numbers: int, device: torch.device) -> float:
    source = torch.zeros(numbers, device=device)
    target = torch.empty_like(source)
    return _seconds(watch, lambda: target.copy_(source))


def _seconds(watch: StopWatch, call: Callable[[], object]) -> float:
    call()
    times = sorted(watch.read(call) for _ in range(READINGS))
    return times[READINGS // 2] / 1e3
