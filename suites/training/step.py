"""One training step: learning rate, loss, gradients, update; and what makes it deterministic.

Loss, optimiser and schedule are those of the official configuration files (BasicSR): Adam without weight decay,
MultiStepLR counted in iterations, no warm-up, no EMA, no clipping.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.capabilities import capabilities_of
from models.ops.common.precision import precision
from models.ops.noise import PhiloxGumbel, noise_key
from suites.data.pool import Batch
from suites.spec import Budget, Cell

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


class TrainingError(RuntimeError):
    """The cell cannot be trained, or its loss left the finite or diverged: then `record` says where, for JSON."""

    def __init__(self, message: str, step: int | None = None, loss: float | None = None) -> None:
        super().__init__(message)
        shown = loss if loss is None or math.isfinite(loss) else str(loss)
        self.record = {} if step is None else {"step": step, "loss": shown}


def learning_rate(budget: Budget, step: int) -> float:
    """The rate of iteration `step`, counted from 1: lr * gamma^(milestones below `step`).

    BasicSR steps its MultiStepLR at the start of every iteration but the first, so that iteration m is the last one
    at the old rate and m + 1 the first at the new one.
    """
    return budget.lr * budget.gamma ** sum(milestone < step for milestone in budget.milestones)


def loss_of(budget: Budget, output: Tensor, target: Tensor) -> Tensor:
    """Mean over all entries of |d|, or of sqrt(d^2 + eps): the official Charbonnier adds eps unsquared (losses.py)."""
    difference = output.to(target.dtype) - target
    if budget.loss == "l1":
        return difference.abs().mean()
    return (difference.square() + budget.charbonnier_eps).sqrt().mean()


@contextmanager
def determinism(enabled: bool, compiled: bool = False) -> Iterator[None]:
    """Deterministic algorithms (PyTorch raises where there is none) or cudnn's fastest, until the block ends.

    compiled: whether torch.compile makes layers within: its code generator is then told too.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    fill = torch.utils.deterministic.fill_uninitialized_memory
    chosen = enabled and CUBLAS not in os.environ
    if chosen:
        os.environ[CUBLAS] = ":4096:8"  # read when the first CUDA context is made
    _set_deterministic(enabled, compiled)
    torch.backends.cudnn.benchmark = not enabled
    torch.utils.deterministic.fill_uninitialized_memory = False  # it costs time and changes no defined result
    try:
        yield
    finally:
        if chosen:
            os.environ.pop(CUBLAS, None)  # processes that are started later choose for themselves
        _set_deterministic(before[0], compiled)
        torch.backends.cudnn.benchmark = before[1]
        torch.utils.deterministic.fill_uninitialized_memory = fill


def _set_deterministic(on: bool, compiled: bool) -> None:
    if compiled:
        torch.use_deterministic_algorithms(on)
    else:  # the same without the code generator, whose import takes every process seconds
        torch.set_deterministic_debug_mode("error" if on else "default")


def backward(model: nn.Module, part: Batch, number: int, cell: Cell, step: int) -> Tensor:
    """Adds the gradients of part `number`'s share of the batch's mean loss to the parameters'. Returns that share.

    Nothing is read back from the device. Stochastic depth (MambaIR) draws from torch's generator, keyed by step and
    part, so that alone differs between a batch and its parts; a step that is being captured has none.
    """
    budget, device = cell.budget, part.gt.device
    if not (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        torch.manual_seed(noise_key("depth", cell.seed, step, number))
    if capabilities_of(model).routed:
        model.noise = PhiloxGumbel(part.keys)
    with precision(budget.precision, device):
        output = model(part.lq) if part.labels is None else model(part.lq, part.labels)
        loss = loss_of(budget, output, part.gt) / budget.accumulate
        with torch.autocast(device.type, enabled=False):  # gradients have the types of the forward pass
            loss.backward()
    return loss.detach()


def optimise(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, cell: Cell, step: int) -> Tensor:
    """One iteration: gradients of the batch's mean loss, summed over equal parts, and an update. Returns that loss."""
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=batch.gt.device)
    for number, part in enumerate(batch.parts(cell.budget.accumulate)):
        total += backward(model, part, number, cell, step)
    optimizer.step()
    return total
