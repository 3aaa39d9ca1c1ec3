"""PSNR and SSIM as the literature computes them, and what exactly a protocol compares.

Both come from scikit-image. SSIM is MATLAB's: an 11x11 Gaussian window of sigma 1.5, population covariance, the mean
over those windows that lie inside the image, and over the channels (official file: basicsr/metrics/psnr_ssim.py).
"""

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from suites.data.degradations import luma, luma_uint8
from suites.spec import Protocol

SSIM_WINDOW = 11


class MetricError(ValueError):
    """Two images that cannot be compared. The message says why."""


def crop(image: np.ndarray, border: int) -> np.ndarray:
    """`image` [H, W, ...] without `border` pixels on every side. Raises MetricError if nothing would be left."""
    height, width = image.shape[:2]
    if min(height, width) <= 2 * border:
        raise MetricError(
            f"{height}x{width} pixels: nothing is left to score after cropping {border} on every side "
            f"(use images of at least {2 * border + 1}x{2 * border + 1})"
        )
    return image[border : height - border, border : width - border]


def psnr(a: np.ndarray, b: np.ndarray, border: int = 0) -> float | None:
    """PSNR in dB of two images [H, W] or [H, W, C] on the 0..255 scale; None when they are identical.

    Raises MetricError for images of different shapes, or when the border leaves nothing.
    """
    a, b = _pair(a, b, border)
    return None if np.array_equal(a, b) else float(peak_signal_noise_ratio(a, b, data_range=255))


def ssim(a: np.ndarray, b: np.ndarray, border: int = 0) -> float | None:
    """SSIM of two images as for `psnr`; None when a side, its border cropped, is shorter than the window of 11."""
    a, b = _pair(a, b, border)
    if min(a.shape[:2]) < SSIM_WINDOW:
        return None
    return float(
        structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=2 if a.ndim == 3 else None,
        )
    )


def quantise(image: np.ndarray) -> np.ndarray:
    """Float 0..1 to uint8: clipped, scaled, rounded (a half to the even number, as the official code does)."""
    scaled = np.clip(image, 0, 1)
    scaled *= 255
    return np.rint(scaled, out=scaled).astype(np.uint8)


def compared(image: np.ndarray, protocol: Protocol) -> np.ndarray:
    """What `protocol` compares of a uint8 image [H, W], [H, W, 1] or [H, W, 3], on the 0..255 scale.

    channels "y": the BT.601 limited-range luma, float and not rounded (luma="float"; a gray image is repeated to RGB
    first, as the networks see it) or uint8 (luma="uint8"; a gray image is its own luma). "rgb": three channels, a gray
    image repeated. "gray": one channel. Raises MetricError for a colour image under "gray".
    """
    image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    gray = image.ndim == 2
    if protocol.channels == "gray":
        if not gray:
            raise MetricError("a colour image under a protocol that scores gray: take its luma first")
        return image
    if protocol.channels == "y" and protocol.luma == "uint8":
        return image if gray else luma_uint8(image)
    rgb = np.repeat(image[..., None], 3, axis=-1) if gray else image
    return luma(rgb) if protocol.channels == "y" else rgb


def score(output: np.ndarray, truth: np.ndarray, protocol: Protocol) -> tuple[float | None, float | None]:
    """PSNR and SSIM of a network's float output [H, W, C] in 0..1 (clipped and rounded here) against uint8 `truth`."""
    a, b = compared(quantise(output), protocol), compared(truth, protocol)
    return psnr(a, b, protocol.border), ssim(a, b, protocol.border)


def score_psnr(output: np.ndarray, truth: np.ndarray, protocol: Protocol) -> float | None:
    """The first of `score`, without the time that SSIM takes."""
    return psnr(compared(quantise(output), protocol), compared(truth, protocol), protocol.border)


def _pair(a: np.ndarray, b: np.ndarray, border: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 with the border cropped."""
    if a.shape != b.shape:
        raise MetricError(f"images of {'x'.join(map(str, a.shape))} and {'x'.join(map(str, b.shape))} do not compare")
    return crop(a.astype(np.float64), border), crop(b.astype(np.float64), border)
