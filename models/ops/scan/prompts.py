"""Prompts of the attentive state space equations: what a class of pixels adds, and where."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.ops.common.dispatch import uses_kernels
from models.ops.common.operator import operator
from models.ops.common.precision import without_autocast
from models.ops.scan.permutation import inverse, permute_pixels, to_steps


@dataclass(frozen=True)
class Prompt:
    """What attentive state space equations add to C, or to another of their parts.

    table: [T, N], what a class adds to C (M N in the paper's letters); wider for parts that are wider.
    classes: int64 [B, L], the class of every pixel, in 0..T-1.
    soft: [B, L, T], the router's probabilities softmax(logits + noise), or None where no router learns.
    at: int64 [B, K, L], the pixel whose prompt is added at step i of direction k (a permutation), or None: pixel i.
    """

    table: Tensor
    classes: Tensor
    soft: Tensor | None = None
    at: Tensor | None = None


def straight_through_lookup(table: Tensor, classes: Tensor, soft: Tensor | None) -> Tensor:
    """Rows of table [T, d] by classes [B, L], with the straight-through gradient for soft [B, L, T]: [B, L, d]."""
    onehot = F.one_hot(classes, table.shape[0]).to(table.dtype)  # [B, L, T]
    if soft is not None:
        onehot = onehot + (soft - soft.detach())  # adds exactly nothing
    with without_autocast(table):
        return onehot @ table


def prompts_of_pixels(prompt: Prompt, order: Tensor | None) -> Tensor:
    """[B, K, L, d] in pixel order: what each pixel receives when it is scanned in `order` int64 [B, K, L] or raster."""
    rows = straight_through_lookup(prompt.table, prompt.classes, prompt.soft).unsqueeze(1)  # [B, 1, L, d]
    if order is prompt.at:
        return rows
    step = inverse(order)  # at which a pixel is scanned
    if prompt.at is None:
        giver, receiver = step, order
    else:
        giver, receiver = prompt.at.gather(-1, step), order.gather(-1, inverse(prompt.at))
    return permute_pixels(rows.expand(-1, order.shape[1], -1, -1), giver, receiver)


def prompts_of_steps(prompt: Prompt, directions: int) -> Tensor:
    """[B, K, L, d]: what every step of K directions receives."""
    rows = straight_through_lookup(prompt.table, prompt.classes, prompt.soft).unsqueeze(1)
    rows = rows.expand(-1, directions, -1, -1)
    return rows if prompt.at is None else permute_pixels(rows, prompt.at, inverse(prompt.at))


def prompt_gradients(
    grad_C: Tensor, order: Tensor | None, table: Tensor, classes: Tensor, soft: Tensor | None, at: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Gradients of table [T, N] and soft [B, L, T], from grad_C [B, K, L, N] of the pixels that steps in `order` visit.

    order, at: int64 [B, K, L] or None, classes int64 [B, L], as of a scan and its `Prompt`.
    """
    index = order  # in grad_C, of the prompt of a pixel
    if at is not None:
        step = inverse(at)  # [B, K, L]: the step that adds the prompt of a pixel
        index = step if order is None else order.gather(2, step)
    if uses_kernels(grad_C):
        grad_table, grad_soft = _gradients_of_rows(grad_C.float(), index, classes, table.float())
    else:
        rows = to_steps(grad_C, index).sum(1)  # [B, L, N]
        onehot = classes.unsqueeze(2) == torch.arange(len(table), device=classes.device)  # [B, L, T]
        grad_table = (rows.flatten(0, 1).T @ onehot.flatten(0, 1).to(rows.dtype)).T  # fast this way round
        grad_soft = rows @ table.to(rows.dtype).T
    return grad_table.to(table.dtype), None if soft is None else grad_soft.to(soft.dtype)


@operator("mambair_bench::prompt_gradients")
def _gradients_of_rows(grad_C: Tensor, index: Tensor | None, classes: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    from models.ops.scan.triton import prompt_kernels

    return prompt_kernels.gradients(grad_C, index, classes, table)


@_gradients_of_rows.register_fake
def _(grad_C, index, classes, table):
    return table.new_empty(table.shape), grad_C.new_empty(*classes.shape, len(table))
