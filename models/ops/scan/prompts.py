"""Prompts of the attentive state space equations: what a class of pixels adds, and where."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from models.ops.common.precision import without_autocast
from models.ops.scan.permutation import inverse, permute_pixels


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
