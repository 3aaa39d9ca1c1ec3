"""How exactly matrix products and convolutions are taken: a context that every run states and stores."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.errors import ModelError

PRECISIONS = ("fp32", "tf32", "tf32x3", "bf16")


@contextmanager
def precision(name: str, device: torch.device | str) -> Iterator[None]:
    """Runs its body in a precision: "fp32" (TF32 off), "tf32" (matrix products and convolutions), "bf16" (autocast).

    The scan and the routing compute in the parameters' type in every precision. Settings are put back at the end.
    Raises ModelError where the device cannot do it, and for "tf32x3", which no backend offers.
    """
    device = torch.device(device)
    if name not in PRECISIONS:
        raise ModelError(f"unknown precision {name!r}: choose from {', '.join(PRECISIONS)}")
    if name == "tf32x3":
        raise ModelError("tf32x3 needs a backend with kernels of its own: choose fp32, tf32 or bf16")
    if name == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8):
        raise ModelError(f"tf32 needs a CUDA device of capability 8 or more, not {device}: choose fp32 or bf16")
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = name == "tf32"
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=name == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
