"""Custom operators that cost no more than their kernels when nobody watches."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


class Operator:
    """A custom operator of PyTorch, called past PyTorch's dispatcher where neither it nor anyone else needs to know.

    On its way through the dispatcher an operator takes the host longer than many of our kernels take a GPU. That way is
    for gradients, compilers, tracers and counters of operations; the first tensor decides whether there is a GPU.
    """

    def __init__(self, name: str, function: Callable) -> None:
        self.function = function
        self.registered = torch.library.custom_op(name, function, mutates_args=())
        self.register_fake, self.register_autograd = self.registered.register_fake, self.registered.register_autograd

    def __call__(self, first: torch.Tensor, *rest: Any) -> Any:
        compiling = torch.compiler.is_compiling()
        if compiling or not first.is_cuda:
            return self.registered(first, *rest)
        watched = torch.is_grad_enabled() or is_in_torch_dispatch_mode()
        with torch.cuda.device(first.device):  # kernels are launched on the current one
            return (self.registered if watched else self.function)(first, *rest)


def operator(name: str) -> Callable[[Callable], Operator]:
    """Decorator: the function as an `Operator`."""
    return lambda function: Operator(name, function)
