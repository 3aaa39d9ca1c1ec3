"""Which patches a training step sees: every draw is a pure function of (seed, step, sample in the batch).

There is no running stream. The position of the sampler is the step, so a resumed run, another variant of the same seed
and a batch trained in parts all see the same patches, while another seed shares nothing with them.

As in the official code (BasicSR): every image once per epoch in an order of its own, the crop uniform over all
positions of the LR patch, and a horizontal flip, a vertical flip and a transposition, each with probability 1/2, which
together are the eight symmetries of the square. Two differences that no average sees: an epoch need not end with a
batch (the official loader drops what does not fill one), and noise is drawn for the patch, not for the whole image.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TypeVar

import numpy as np

from models.ops.noise import noise_key

Fetched = TypeVar("Fetched")


def generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    """A generator of its own for one purpose at one step (or epoch): Philox, keyed by a hash of all three."""
    return np.random.Generator(np.random.Philox(key=noise_key(purpose, seed, index)))


@dataclass(frozen=True)
class Patches:
    """Where the B patches of a step lie: arrays of [B]. Flips act on the crop, the transposition comes last."""

    image: np.ndarray  # int64, index into the images
    top: np.ndarray  # int64, in LR pixels
    left: np.ndarray
    hflip: np.ndarray  # bool
    vflip: np.ndarray
    transpose: np.ndarray

    def strides(self, offsets: np.ndarray, widths: np.ndarray, patch: int, scale: int) -> np.ndarray:
        """Every patch as a strided view of images that lie row after row in one array of pixels.

        offsets, widths: int64 [n], first pixel and width of every image in LR pixels; an image `scale` times as wide
        and high, in an array of its own, begins at scale^2 times the offset. patch: side in LR pixels.
        Returns int64 [B, 3]: (base, down, right): pixel (i, j) of the augmented patch is base + i * down + j * right.
        """
        side, width = patch * scale, widths[self.image] * scale
        base = offsets[self.image] * scale**2 + self.top * scale * width + self.left * scale
        down, right = width, np.ones_like(width)
        base = np.where(self.hflip, base + (side - 1) * right, base)
        right = np.where(self.hflip, -right, right)
        base = np.where(self.vflip, base + (side - 1) * down, base)
        down = np.where(self.vflip, -down, down)
        down, right = np.where(self.transpose, right, down), np.where(self.transpose, down, right)
        return np.stack([base, down, right], axis=1)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    return generator(seed, "epoch", epoch).permutation(count)


def draw_images(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """Indices int64 [B] of the images of a step (counted from 1): each of the `count` images once per epoch."""
    position = (step - 1) * batch + np.arange(batch)
    epochs, place = position // count, position % count
    return np.array([_epoch_order(seed, int(e), count)[p] for e, p in zip(epochs, place, strict=True)], dtype=np.int64)


def draw_patches(seed: int, step: int, batch: int, heights: np.ndarray, widths: np.ndarray, patch: int) -> Patches:
    """The patches of a step. heights, widths: int64 [n], LR sizes of the images, none below `patch`."""
    image = draw_images(seed, step, batch, len(heights))
    u = generator(seed, "patch", step).random((batch, 5))  # row by row, so a sample's numbers do not depend on B
    top = (u[:, 0] * (heights[image] - patch + 1)).astype(np.int64)
    left = (u[:, 1] * (widths[image] - patch + 1)).astype(np.int64)
    return Patches(image, top, left, *(u[:, 2:] < 0.5).T)


def draw_noise(seed: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 of `shape` [B, ...], filled sample by sample: a sample's does not depend on B."""
    return generator(seed, "noise", step).standard_normal(shape, dtype=np.float32)


def prefetch(fetch: Callable[[int], Fetched], steps: range, depth: int = 3) -> Iterator[Fetched]:
    """Yields fetch(step) for every step, made up to `depth` steps ahead by one background thread.

    What `fetch` raises is raised here, at its step. Closing the iterator ends the thread.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as worker:
        ahead = iter(steps)
        pending = deque(worker.submit(fetch, step) for step in islice(ahead, depth))
        while pending:
            fetched = pending.popleft().result()
            pending.extend(worker.submit(fetch, step) for step in islice(ahead, 1))
            yield fetched
