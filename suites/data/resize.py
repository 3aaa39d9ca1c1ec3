"""MATLAB's imresize with the bicubic kernel: what "bicubic" means in every super-resolution paper.

Definition (The MathWorks, imresize; kernel: Keys 1981 with a = -0.5): output sample x, counted from 1, lies at
u = x / s + (1 - 1 / s) / 2 of the input; when the image shrinks the kernel is widened by 1 / s against aliasing; its
weights are normalised to a sum of one; the border is mirrored with its edge. One dimension is done after the other,
rows first when both have the same scale, and a uint8 image is rounded to uint8 after EACH of them.
"""

import math

import numpy as np

BLOCK_BYTES = 1 << 18  # float64 rows worked on together: they stay in the cache


def imresize(image: np.ndarray, scale: float) -> np.ndarray:
    """Resizes `image` [H, W] or [H, W, C] to [ceil(s H), ceil(s W), ...] bicubically.

    uint8 gives uint8, rounded after each dimension (a half away from zero) and bit for bit what MATLAB writes; floating
    point gives float64 without any rounding or clipping. scale: the factor s, for example 1 / 3 or 2. Raises ValueError
    for an empty image or another type.
    """
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"an image of {image.dtype} cannot be resized: give uint8 or floating point")
    if 0 in image.shape:
        raise ValueError(f"an image of {'x'.join(map(str, image.shape))} has no pixels to resize")
    rows = _resize_first(image, scale)  # [sH, W, ...]
    return np.ascontiguousarray(_resize_first(rows.swapaxes(0, 1), scale).swapaxes(0, 1))  # [sH, sW, ...]


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5, zero from |x| = 2 on."""
    x = np.abs(x)
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return inner * (x <= 1) + outer * ((x > 1) & (x <= 2))


def contributions(length: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Which input samples make every output sample of a side of `length`, and how much each counts.

    Returns (indices int64 [ceil(s length), P] from 0, weights float64 [ceil(s length), P], each row summing to one).
    """
    shrink = min(scale, 1.0)
    width = 4 / shrink
    x = np.arange(1, math.ceil(scale * length) + 1, dtype=np.float64)
    u = x / scale + 0.5 * (1 - 1 / scale)
    left = np.floor(u - width / 2)
    index = left[:, None] + np.arange(math.ceil(width) + 2)  # [out, P], counted from 1
    weight = shrink * cubic(shrink * (u[:, None] - index))
    weight /= weight.sum(axis=1, keepdims=True)
    mirrored = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    index = mirrored[(index.astype(np.int64) - 1) % (2 * length)]
    used = weight.any(axis=0)
    return index[:, used], weight[:, used]


def _resize_first(image: np.ndarray, scale: float) -> np.ndarray:
    """[H, ...] -> [ceil(s H), ...]. Taps are added one by one in the order of the input: the same bits everywhere."""
    index, weight = contributions(image.shape[0], scale)
    flat = np.ascontiguousarray(image).reshape(image.shape[0], -1)  # [H, W C]
    exact = image.dtype == np.uint8
    out = np.empty((len(index), flat.shape[1]), np.uint8 if exact else np.float64)
    step = max(1, BLOCK_BYTES // (8 * flat.shape[1]))
    for start in range(0, len(index), step):
        rows = slice(start, start + step)
        total = np.zeros(out[rows].shape)
        for tap in range(index.shape[1]):
            total += flat[index[rows, tap]] * weight[rows, tap, None]
        out[rows] = round_uint8(total) if exact else total
    return out.reshape(len(index), *image.shape[1:])


def round_uint8(x: np.ndarray) -> np.ndarray:
    """Floating point on the 0..255 scale to uint8 as MATLAB does: clipped, a half rounded away from zero."""
    whole = np.floor(x)
    whole += x - whole >= 0.5
    return np.clip(whole, 0, 255, out=whole).astype(np.uint8)
