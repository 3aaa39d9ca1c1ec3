"""Regional compilation: the code of one layer compiled by torch.compile, and shared by all layers that are alike.

A network that is `compiled` pays once, for the first image of a kind (with or without gradients, precision, shifted
windows or not), and saves time at every following one. TORCHINDUCTOR_CACHE_DIR names the folder where PyTorch keeps
what it made, for other processes. Custom operators stay whole; everything between them is fused.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

BACKEND = "inductor"
KINDS = 64  # of one layer's code in a process: networks, precisions, modes; PyTorch gives up after 8


@functools.cache
def _compile(function: Callable, backend: str, dynamic: bool | None, deterministic: bool) -> Callable:
    torch._dynamo.config.recompile_limit = max(KINDS, torch._dynamo.config.recompile_limit)
    options = None
    if deterministic and backend == "inductor" and hasattr(torch._inductor.config, "deterministic"):
        options = {"deterministic": True}  # kernels are not chosen by timing them
    return torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic, options=options)


def compiled(function: Callable, *arguments: Any) -> Any:
    """function(*arguments), compiled: for any image size without gradients, for each size with them."""
    dynamic = None if torch.is_grad_enabled() else True
    return _compile(function, BACKEND, dynamic, torch.are_deterministic_algorithms_enabled())(*arguments)
