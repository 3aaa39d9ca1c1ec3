"""The window of a scored picture in which the restored image is farthest from the truth, kept for the report.

Only of pictures that may be passed on: those embedded in scikit-image and the user's own. A set that has a name here is
somebody's data set, whatever folder it lies in.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import uniform_filter

from results import crops, records
from suites.data import catalogue
from suites.data.pictures import as_rgb
from suites.data.resize import imresize
from suites.evaluation.metrics import quantise
from suites.spec import Task

SIZE = 120  # pixels of the truth, a multiple of every scale
FREE = "embedded"
WIDTH, GAP, CAPTION = 240, 8, 22  # pixels: of a shown crop, between two, of the line above


def may_be_kept(dataset: str) -> bool:
    """Whether pictures of this set may be stored in a report: not those of a known set, except the embedded ones."""
    info = catalogue.known(dataset)
    return info is None or info.name == FREE


class Kept:
    """Crops of the pictures of one set while it is scored; they are filed when its record is there."""

    def __init__(self, task: Task) -> None:
        self._task, self._crops = task, {}

    def keep(
        self, stem: str, degraded: np.ndarray, restored: np.ndarray, truth: np.ndarray, psnr: float | None
    ) -> None:
        """Takes the crop of one picture; images as `views` takes them, psnr of the whole picture."""
        shown, place = views(self._task, degraded, restored, truth)
        self._crops[stem] = shown, {"image": stem, "psnr": psnr, "window": place, "date": records.now()}

    def file(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Writes them beside the record in `folder`. facts: what of `crops.FACTS` all pictures share."""
        for stem, (shown, own) in self._crops.items():
            crops.write(folder, stem, shown, {**facts, **own})


def views(
    task: Task, degraded: np.ndarray, restored: np.ndarray, truth: np.ndarray
) -> tuple[dict[str, np.ndarray], list[int]]:
    """The crops by name of `crops.VIEWS`, uint8, and the window [top, left, height, width] in the truth.

    degraded, restored: float [h, w, C] and [H, W, C] in 0..1; truth: uint8 [H, W] or [H, W, C]. bicubic: the degraded
    image enlarged, in super-resolution alone.
    """
    scale = task.scale
    restored = quantise(restored)
    top, left, height, width = window(restored, truth, scale)
    here = (slice(top, top + height), slice(left, left + width))
    small = (slice(top // scale, (top + height) // scale), slice(left // scale, (left + width) // scale))
    made = {"degraded": quantise(degraded)[small], "restored": restored[here], "truth": truth[here]}
    if scale > 1:
        made["bicubic"] = imresize(quantise(degraded), scale)[here]
    return {name: _squeezed(pixels) for name, pixels in made.items()}, [top, left, height, width]


def side_by_side(
    task: Task, degraded: np.ndarray, restored: Sequence[np.ndarray], truth: np.ndarray, told: Sequence[str]
) -> np.ndarray:
    """uint8 [H, W, 3]: the degraded image enlarged, both restored ones and the truth, each under its name, where the
    restored ones differ most. Images as `views` takes them; told: what stands over each restored one."""
    shown = [quantise(one) for one in restored]
    top, left, height, width = window(shown[0], shown[1], task.scale)
    enlarged = imresize(quantise(degraded), task.scale) if task.scale > 1 else quantise(degraded)
    named = [("bicubic" if task.scale > 1 else "degraded", enlarged), *zip(told, shown, strict=True), ("truth", truth)]
    factor = max(1, WIDTH // width)
    tiles = [as_rgb(_squeezed(one[top : top + height, left : left + width])) for _, one in named]
    tiles = [tile.repeat(factor, 0).repeat(factor, 1) for tile in tiles]
    page = Image.new("RGB", (sum(tile.shape[1] + GAP for tile in tiles) - GAP, tiles[0].shape[0] + CAPTION), "white")
    draw, at = ImageDraw.Draw(page), 0
    for (name, _), tile in zip(named, tiles, strict=True):
        draw.text((at, 2), name, "black", ImageFont.load_default(CAPTION - 6))
        page.paste(Image.fromarray(tile), (at, CAPTION))
        at += tile.shape[1] + GAP
    return np.asarray(page)


def window(restored: np.ndarray, truth: np.ndarray, scale: int) -> tuple[int, int, int, int]:
    """Of at most SIZE x SIZE pixels, on the grid of the degraded image: where the mean absolute error is largest."""
    error = np.abs(_gray(restored) - _gray(truth))  # [H, W]
    height, width = (min(SIZE, side // scale * scale) for side in error.shape)
    mean = uniform_filter(error, (height, width), mode="constant")  # of the window centred there
    tops = np.arange(0, error.shape[0] - height + 1, scale)
    lefts = np.arange(0, error.shape[1] - width + 1, scale)
    centres = mean[np.ix_(tops + height // 2, lefts + width // 2)]
    row, column = np.unravel_index(np.argmax(centres), centres.shape)
    return int(tops[row]), int(lefts[column]), height, width


def _gray(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float64).reshape(*pixels.shape[:2], -1).mean(axis=2)


def _squeezed(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
