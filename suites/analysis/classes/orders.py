"""Sequences of an image's pixels, and how near each other their neighbours are: in features, and on the image.

An order is int64 [L]: the pixel (raster number) of every step.
"""

import numpy as np
import torch
from torch import Tensor


def unit(features: Tensor) -> Tensor:
    """[L, E] less its mean over pixels, every row of length 1: a product of two rows is a cosine, about 0 for pixels at
    random and 1 for equal ones."""
    features = features.float()
    return torch.nn.functional.normalize(features - features.mean(0), dim=1)


def by_key(key: Tensor) -> Tensor:
    """The order of ascending `key` [L]; equal keys stay in raster order, as the network sorts."""
    return key.argsort(stable=True)


def at_random(length: int, tile: int, number: int = 0) -> Tensor:
    """A permutation int64 [length] of its own for every tile and number, both below 2^20."""
    return torch.randperm(length, generator=torch.Generator().manual_seed((number << 20) + tile))


def by_nearest(rows: Tensor) -> Tensor:
    """The greedy order of `unit` features [L, E] from pixel 0 on: next is always the pixel most similar to the last.

    A reference for how alike neighbours could be, not the best order: finding that is a travelling salesman's problem.
    Memory and time grow with L^2.
    """
    similar = (rows @ rows.T).cpu().numpy()  # a step is too little work for PyTorch
    free, row, order = np.zeros_like(similar[0]), np.empty_like(similar[0]), np.zeros(len(rows), dtype=np.int64)
    for step in range(1, len(rows)):
        free[order[step - 1]] = -np.inf
        np.add(similar[order[step - 1]], free, out=row)
        order[step] = row.argmax()
    return torch.from_numpy(order).to(rows.device)


def neighbours(order: Tensor, rows: Tensor, width: int, steps: int) -> tuple[float, float]:
    """Sums over all pairs of pixels that are `steps` apart in `order`: of their cosine, and of their distance.

    rows: `unit` features [L, E] in raster order. width: of the image. The distance is Euclidean, in pixels. There are
    L - steps pairs; both sums are 0 where there is none.
    """
    one, other = order[: max(0, len(order) - steps)], order[steps:]
    along = rows[order]
    cosine = (along[: len(one)] * along[steps:]).sum()
    down, right = one // width - other // width, one % width - other % width
    return float(cosine), float((down.square() + right.square()).float().sqrt().sum())


def within(order: Tensor, height: int, width: int, side: int) -> tuple[Tensor, Tensor, int]:
    """`order` less all pixels outside the window of `side` x `side` pixels at the centre of the image.

    Returns the window's pixels as raster numbers of the image int64 [P], the order of the window's own raster numbers
    int64 [P], and the window's width; a window is not larger than the image.
    """
    high, wide = min(side, height), min(side, width)
    top, left = (height - high) // 2, (width - wide) // 2
    rows = torch.arange(top, top + high, device=order.device).unsqueeze(1)
    pixels = (rows * width + torch.arange(left, left + wide, device=order.device)).flatten()
    number = torch.full((height * width,), -1, dtype=torch.int64, device=order.device)
    number[pixels] = torch.arange(len(pixels), device=order.device)
    found = number[order]
    return pixels, found[found >= 0], wide
