"""How exactly matrix products and convolutions are taken: a context that every run states and stores."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from models.errors import ModelError
from models.ops.common.kernels import unavailable

PRECISIONS = ("fp32", "tf32", "tf32x3", "bf16")

_products = "ieee"  # a plain global, which torch.compile guards


def float32_products() -> str:
    """How our own kernels multiply float32 matrices here: "ieee", or as the `precision` around says "tf32" or "tf32x3".

    tf32x3 splits a factor into two TF32 numbers and adds three products: float32 accuracy on matrix units.
    """
    return _products


def unsupported(name: str, device: torch.device | str) -> str | None:
    """Why `device` has not this one of PRECISIONS, with what to choose instead; None where it has."""
    device = torch.device(device)
    if name == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8):
        return f"tf32 needs a CUDA device of capability 8 or more, not {device}: choose fp32 or bf16"
    if name == "tf32x3" and (reason := unavailable(device)) is not None:
        return f"tf32x3 is a precision of Triton kernels: {reason}; choose fp32 or bf16"
    return None


@contextmanager
def precision(name: str, device: torch.device | str) -> Iterator[None]:
    """Runs its body in a precision: "fp32" (TF32 off), "tf32" (matrix products and convolutions), "bf16" (autocast).

    "tf32x3" is "fp32" with window attention, linear layers and 3x3 convolutions in kernels that multiply in three TF32
    steps; whatever has no such kernel stays plain float32. In every precision the scan computes in float32 (float64 for
    such an input) and the routing's products are as exact as float32's where a kernel makes them: three TF32 ones, in
    "fp32" too. Settings are put back at the end. Raises ModelError where the device cannot do it.
    """
    device = torch.device(device)
    if name not in PRECISIONS:
        raise ModelError(f"unknown precision {name!r}: choose from {', '.join(PRECISIONS)}")
    if (reason := unsupported(name, device)) is not None:
        raise ModelError(reason)
    products = name if name in ("tf32", "tf32x3") else "ieee"
    settings = "high" if name == "tf32" else "highest", name == "tf32", products
    with Settings(*settings), torch.autocast(device.type, dtype=torch.bfloat16, enabled=name == "bf16"):
        yield


class Settings:
    """What `precision` sets besides autocast within a `with`, as often as it is entered. `Settings.now()`: as it is."""

    def __init__(self, matmul: str, convolutions: bool, products: str) -> None:
        self.wanted = matmul, convolutions, products
        self.before: list[Settings] = []

    @classmethod
    def now(cls) -> "Settings":
        return cls(torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, _products)

    def apply(self) -> None:
        global _products
        matmul, convolutions, products = self.wanted
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
        _products = products

    def __enter__(self) -> None:
        self.before.append(Settings.now())
        self.apply()

    def __exit__(self, *_: object) -> None:
        self.before.pop().apply()


def without_autocast(x: torch.Tensor) -> AbstractContextManager:
    """The context in which operations on x's device keep their inputs' types (the meta device has no autocast)."""
    kind = x.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def kernel_products(x: torch.Tensor) -> str | None:
    """How kernels multiply x here: "bf16", "tf32" or "tf32x3"; None in plain float32, which is left to PyTorch."""
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
    if x.dtype == torch.bfloat16 or (x.dtype == torch.float32 and autocast):
        return "bf16"
    return None if x.dtype != torch.float32 or _products == "ieee" else _products
