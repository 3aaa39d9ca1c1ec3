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
        self.register_fake = self.registered.register_fake

    def register_autograd(self, gradients: Callable, setup_context: Callable) -> None:
        """As of PyTorch's own. `gradients` of an operator that forks takes those of the other readers after dy."""
        self.gradients, self.setup_context = gradients, setup_context
        self.registered.register_autograd(gradients, setup_context=setup_context)

    def __call__(self, first: torch.Tensor, *rest: Any) -> Any:
        compiling = torch.compiler.is_compiling()
        if compiling or not first.is_cuda:
            return self.registered(first, *rest)
        call = self.registered if torch.is_grad_enabled() or is_in_torch_dispatch_mode() else self.function
        if first.get_device() == torch.cuda.current_device():  # where kernels are launched
            return call(first, *rest)
        with torch.cuda.device(first.device):
            return call(first, *rest)

    def fork(self, others: int, first: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
        """The operator's result, then `first` as often as there are others that read it.

        What they read has its gradient added by this operator's backward, where PyTorch would add it in a pass over
        memory of its own. A compiler fuses such additions with their surroundings, so it is left to that.
        `others`: up to 2, as kernels take. Raises ValueError for more.
        """
        if others > 2:
            raise ValueError(f"a fork adds the gradients of at most 2 other readers, not of {others}")
        if not others or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return self(first, *rest), *[first] * others
        return _Fork.apply(self, others, first, *rest)


class _Fork(torch.autograd.Function):
    """Forks. `ctx.needs_input_grad` counts `operator` and `others` in: gradients must not read it."""

    @staticmethod
    def forward(operator: Operator, others: int, first: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
        return operator(first, *rest), *(first.view_as(first) for _ in range(others))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        operator, _, *arguments = inputs
        ctx.gradients = operator.gradients
        operator.setup_context(ctx, arguments, output[0])
        ctx.set_materialize_grads(False)
        ctx.result = output[0].shape, output[0].dtype

    @staticmethod
    def backward(ctx, dy, *others):
        others = [gradient for gradient in others if gradient is not None]  # of those that were read
        if dy is None:
            shape, dtype = ctx.result
            dy = others[0].new_zeros(shape, dtype=dtype)
        return None, None, *ctx.gradients(ctx, dy, *others)


def operator(name: str) -> Callable[[Callable], Operator]:
    """Decorator: the function as an `Operator`."""
    return lambda function: Operator(name, function)
