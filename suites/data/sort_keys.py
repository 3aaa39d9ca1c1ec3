"""External semantics for the sort of SGN: who belongs together, by k-means or by superpixels, instead of learned.

Labels are made once per LR image and then cropped, flipped and tiled with it; the network's own padding extends them.
They replace only the sort key.
"""

import warnings

import numpy as np
from scipy.cluster.vq import kmeans2
from skimage.segmentation import slic

from suites.data.degradations import luma
from suites.spec import check_choice

KINDS = ("kmeans", "slic")  # what a variant may be trained with
LUMA = "luma"


def make(kind: str, lq: np.ndarray, tokens: int) -> np.ndarray:
    """Labels int64 [H, W] in 0..tokens-1 for an image `lq` [H, W, C], C = 1 or 3, float in 0..1 (clipped to it).

    kmeans: on (R, G, B, x/W, y/H), scipy's kmeans2 with k-means++, 20 iterations, seed 0. slic: scikit-image's, asking
    for `tokens` segments of compactness 10. Both are numbered 0, 1, ... by mean luma, empty clusters dropped. Where
    SLIC makes more than `tokens` segments, those nearest in mean luma share a label. An image of fewer than `tokens`
    pixels has a cluster for each. luma: classes of equally many pixels, dark first. Raises SpecError for another kind.
    """
    check_choice("labels", kind, (*KINDS, LUMA))
    height, width = lq.shape[:2]
    if kind == LUMA:
        return _ranked(luma(255 * np.broadcast_to(lq, (height, width, 3))), tokens)
    rgb = np.broadcast_to(np.clip(lq, 0, 1).astype(np.float64), (height, width, 3))
    clusters = {"kmeans": _kmeans, "slic": _slic}[kind](rgb, tokens)
    return _by_luma(clusters, rgb, tokens)


def _ranked(gray: np.ndarray, tokens: int) -> np.ndarray:
    """`tokens` classes int64 [H, W] of equally many pixels each, by value; equal ones in raster order."""
    rank = np.empty(gray.size, dtype=np.int64)
    rank[np.argsort(gray.ravel(), kind="stable")] = np.arange(gray.size)
    return (rank * tokens // gray.size).reshape(gray.shape)


def _kmeans(rgb: np.ndarray, tokens: int) -> np.ndarray:
    """float64 [H, W, 3] -> int [H, W]."""
    height, width, _ = rgb.shape
    y, x = np.mgrid[:height, :width]
    points = np.concatenate([rgb, (x / width)[..., None], (y / height)[..., None]], axis=-1).reshape(-1, 5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        _, label = kmeans2(points, min(tokens, len(points)), iter=20, minit="++", seed=0)
    return label.reshape(height, width)


def _slic(rgb: np.ndarray, tokens: int) -> np.ndarray:
    """float64 [H, W, 3] -> int [H, W]."""
    return slic(rgb, n_segments=tokens, compactness=10, start_label=0, channel_axis=-1)


def _by_luma(clusters: np.ndarray, rgb: np.ndarray, tokens: int) -> np.ndarray:
    """Numbers the clusters by mean luma, dark first (equal ones by their old number), and keeps at most `tokens`."""
    _, label = np.unique(clusters, return_inverse=True)  # no gaps where a cluster is empty
    label = label.reshape(clusters.shape)
    mean = np.bincount(label.ravel(), weights=luma(255 * rgb).ravel()) / np.bincount(label.ravel())
    order = np.argsort(mean, kind="stable")
    gaps = np.diff(mean[order])
    borders = np.ones(len(gaps), dtype=bool)
    borders[np.argsort(gaps, kind="stable")[: max(0, len(mean) - tokens)]] = False  # the closest pairs share a label
    rank = np.empty(len(mean), dtype=np.int64)
    rank[order] = np.concatenate([[0], np.cumsum(borders)])
    return rank[label]
