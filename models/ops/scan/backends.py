"""The backends of the scan: what one is, which there are, and which one runs where."""

import importlib
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


class BackendError(RuntimeError):
    """A scan backend was asked for by name and cannot run here, or not on these tensors."""


@runtime_checkable
class Backend(Protocol):
    """A module that scans, as reference.py does. Letters, shapes and equations: the head of the package.

    It is given all tensors in the type of the state (float32, or float64 for float64 `u`); u, delta, B, C and the
    gradient of y may also come in one of TYPES. It may return results in the type of the state or in that of the tensor
    they belong to.
    """

    DEVICES: tuple[str, ...] | None
    """Types of devices that it runs on; None: any."""
    TYPES: tuple[torch.dtype, ...]
    """Types other than that of the state that it reads."""

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, in one line, or None."""

    def refuses(self, u: Tensor, A: Tensor) -> str | None:
        """Why it cannot scan these tensors, in one line, or None. Reads types and shapes only."""

    def saved_shape(self, batch: int, directions: int, length: int, channels: int, states: int) -> tuple[int, ...]:
        """Shape of what `forward` keeps for `backward`, in the type of the state."""

    def forward(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        delta_bias: Tensor,
        order: Tensor | None,
        table: Tensor | None,
        classes: Tensor | None,
        save: bool,
    ) -> tuple[Tensor, Tensor]:
        """y [B, K, L, E] in pixel order, and what is kept if `save`, else an empty tensor. `classes` by step."""

    def backward(
        self,
        grad_y: Tensor,
        saved: Tensor,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        delta_bias: Tensor,
        order: Tensor | None,
        table: Tensor | None,
        classes: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gradients of u, delta, A, B, C, D and delta_bias in their shapes."""


# Modules by name, imported when they are asked for. Nothing is added at run time.
BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "reference": "models.ops.scan.reference",
        "chunked": "models.ops.scan.chunked",
        "cpu": "models.ops.scan.cpu",
        "triton": "models.ops.scan.triton",
    }
)
PEERS: Mapping[str, str] = MappingProxyType(
    {
        "mamba_ssm": "models.ops.scan.mamba_ssm",
    }
)  # scans of other projects: run when named, for comparison; offered nowhere
PREFERRED = {"cuda": ("triton", "chunked"), "cpu": ("cpu", "chunked")}  # by device, best first; elsewhere: chunked

_announced: set[str] = set()


def load(backend: str) -> Backend:
    """The module of a backend or peer. Raises BackendError for an unknown name."""
    path = BACKENDS.get(backend) or PEERS.get(backend)
    if path is None:
        raise BackendError(f"unknown scan backend {backend!r}: choose one of auto, {', '.join(BACKENDS)}")
    return importlib.import_module(path)


def available() -> dict[str, str | None]:
    """Every backend, with None when it can be used on this machine and else the reason in one line."""
    return {name: load(name).unavailable() for name in BACKENDS}


def resolve(backend: str, device: torch.device) -> str:
    """The backend that `backend` ("auto" or a name) stands for on a device.

    "auto" takes the first of PREFERRED that is usable and warns, once for each reason, when that is not the best.
    A backend asked for by name is never replaced: BackendError says why it cannot run.
    On the meta device no backend computes anything, so every name is accepted there.
    """
    device = torch.device(device)
    if backend == "auto":
        names = PREFERRED.get(device.type, ("chunked",))
        if device.type == "meta":
            return names[0]
        for name in names:
            reason = load(name).unavailable()
            if reason is None:
                return name
            if reason not in _announced:
                _announced.add(reason)
                following = names[names.index(name) + 1]
                warnings.warn(f"scan backend {name!r} is not used: {reason}; trying {following!r}", stacklevel=2)
    module = load(backend)
    if device.type != "meta":
        if module.DEVICES is not None and device.type not in module.DEVICES:
            raise BackendError(f"scan backend {backend!r} runs on {', '.join(module.DEVICES)}, not on {device.type}")
        if (reason := module.unavailable()) is not None:
            raise BackendError(f"scan backend {backend!r} cannot be used: {reason}")
    return backend


def choose(backend: str, u: Tensor, A: Tensor) -> Backend:
    """The backend of these tensors; "auto" leaves to `chunked` what the best one refuses. Raises BackendError."""
    module = load(resolve(backend, u.device))
    if (reason := module.refuses(u, A)) is None:
        return module
    if backend == "auto":
        return load("chunked")
    raise BackendError(f"scan backend {backend!r} cannot take these tensors: {reason}; take 'chunked'")
