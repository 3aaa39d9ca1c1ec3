"""Benchmarks, by `make bench`: no other test command collects bench_*.py.

Cases of one group are compared in one run (pytest-benchmark shows ratios in brackets); each is checked against an
independent result before it is timed, and no time is asserted. On a GPU a call ends when the device has finished.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from suites.benchmark.kernels import relative_error

DEVICES = ("cpu", "cuda")


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture
def measure(benchmark, device) -> Callable[..., None]:
    """measure(group, call, expected, tolerance): checks what `call` returns, then times it."""

    def run(group: str, call: Callable[[], list[Tensor]], expected: list[Tensor], tolerance: float) -> None:
        found = call()
        error = max(relative_error(a, b) for a, b in zip(found, expected, strict=True))
        assert error <= tolerance, f"relative error {error:.1e}, at most {tolerance:.0e} is allowed: not timed"
        benchmark.group = f"{group} on {device.type}"
        benchmark.extra_info |= {"error": error, "tolerance": tolerance, "threads": torch.get_num_threads()}
        if device.type == "cuda":
            benchmark.extra_info["device"] = torch.cuda.get_device_name(device)

            def finished() -> None:
                call()
                torch.cuda.synchronize()

            benchmark(finished)
        else:
            benchmark(call)

    return run
