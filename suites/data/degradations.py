"""How ground truth becomes the degraded image that a network gets: bicubic LR, Gaussian noise, JPEG."""

from io import BytesIO

import numpy as np
from PIL import Image

from suites import degradation_file
from suites.data.pictures import DataError, as_rgb
from suites.data.resize import imresize, round_uint8
from suites.spec import Task, check_choice

LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # of R, G, B on the 0..255 scale (ITU-R BT.601, limited range)


def luma(rgb: np.ndarray) -> np.ndarray:
    """BT.601 limited-range luma float64 [H, W], 16..235 and not rounded, of RGB [H, W, 3] on the 0..255 scale."""
    return sum(rgb[..., channel] * weight for channel, weight in enumerate(LUMA)) + 16.0


def luma_uint8(rgb: np.ndarray) -> np.ndarray:
    """`luma` of uint8 RGB [H, W, 3] rounded to uint8 [H, W], as MATLAB's rgb2ycbcr gives it."""
    return round_uint8(luma(rgb))


def modcrop(gt: np.ndarray, scale: int) -> np.ndarray:
    """The top left part of [H, W, ...] whose sides are multiples of `scale`. Raises DataError when nothing is left."""
    height, width = (side - side % scale for side in gt.shape[:2])
    if min(height, width) == 0:
        raise DataError(f"a picture of {gt.shape[0]}x{gt.shape[1]} pixels is too small for a scale of {scale}")
    return gt[:height, :width]


def lr_matlab(gt: np.ndarray, scale: int) -> np.ndarray:
    """uint8 [H, W] or [H, W, C] to uint8 [H/s, W/s, ...]: MATLAB's imresize, rounded after each dimension."""
    return imresize(gt, 1 / scale)


def lr_once(gt: np.ndarray, scale: int) -> np.ndarray:
    """As `lr_matlab`, but in floating point and rounded once, at the end."""
    return round_uint8(imresize(gt.astype(np.float64), 1 / scale))


def lr_pil(gt: np.ndarray, scale: int) -> np.ndarray:
    """As `lr_matlab`, but by Pillow: columns first, weights of fixed point, the border cut off and not mirrored."""
    height, width = gt.shape[:2]
    return np.array(Image.fromarray(gt).resize((width // scale, height // scale), Image.Resampling.BICUBIC))


LR_MAKERS = {"matlab": lr_matlab, "once": lr_once, "pil": lr_pil}


def bicubic_luma(gt: np.ndarray, scale: int) -> np.ndarray:
    """The bicubic baseline as the literature scores it, uint8 [H, W], of uint8 [H, W] or [H, W, 3].

    The luma as uint8 (a gray picture as it is), down and up in floating point, one rounding at the end.
    """
    y = gt if gt.ndim == 2 else luma_uint8(gt)
    return round_uint8(imresize(imresize(y.astype(np.float64), 1 / scale), scale))


def gaussian_noise(rgb: np.ndarray, sigma: float) -> np.ndarray:
    """uint8 RGB [H, W, 3] with N(0, sigma / 255) noise: float32 RGB [H, W, 3] around 0..1, not clipped, not rounded.

    The official test's: numpy's legacy generator with seed 0 before every image, drawn for the whole image in the order
    of OpenCV's channels, B, G, R; the sum in float64 (official file: basicsr/data/paired_image_dataset.py).
    """
    noise = np.random.RandomState(0).normal(0, sigma / 255, rgb.shape)[..., ::-1]
    return (_unit(rgb) + noise).astype(np.float32)


def jpeg(gray: np.ndarray, quality: int) -> np.ndarray:
    """uint8 gray [H, W] through Pillow's JPEG encoder and back, uint8 [H, W]."""
    buffer = BytesIO()
    Image.fromarray(gray).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.array(image)


def degrade(task: Task, gt: np.ndarray, lr_route: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(lq float32 [h, w, C] on the 0..1 scale, truth uint8 [H, W] or [H, W, 3]) of ground truth uint8 [H, W(, 3)].

    Super-resolution: the truth is `gt` cropped to a multiple of the scale, gray where it is gray; C = 3 (gray
    repeated) and h = H / scale by the route "matlab", "once" or "pil". The route "luma" is the bicubic baseline itself:
    its lq, C = 1, is enlarged again, h = H. Denoising: C = 3, gray repeated; the noise leaves 0..1. JPEG: C = 1, the
    truth is the rounded luma of a colour picture, a gray one as it is. A user's function: as super-resolution, and it
    makes the lq. `lr_route` is None but for super-resolution.

    Raises DataError for a picture smaller than the scale, SpecError for another route.
    """
    if task.kind == "denoise":
        return gaussian_noise(as_rgb(gt), task.level), gt
    if task.kind == "jpeg":
        truth = gt if gt.ndim == 2 else luma_uint8(gt)
        return _unit(jpeg(truth, task.level))[..., None], truth
    if task.kind == "custom":
        truth = modcrop(gt, task.scale)
        return _unit(degradation_file.degraded(task, as_rgb(truth))), truth
    check_choice("LR route", lr_route, (*LR_MAKERS, "luma"))
    truth = modcrop(gt, task.scale)
    if lr_route == "luma":
        return _unit(bicubic_luma(truth, task.scale))[..., None], truth
    return _unit(LR_MAKERS[lr_route](as_rgb(truth), task.scale)), truth


def _unit(pixels: np.ndarray) -> np.ndarray:
    """uint8 to float32 in 0..1."""
    return pixels.astype(np.float32) / 255
