"""Segmentations of a picture that classes are compared with, on its LR grid.

slic, felzenszwalb   scikit-image's superpixels and graph-based segments of the LR picture
human                people's, of BSDS500 (Arbelaez et al. 2011): <stem>.mat in a folder that the user has
"""

from functools import cache
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from skimage.segmentation import felzenszwalb

from suites.analysis.spec import Pair
from suites.data import sort_keys
from suites.spec import SpecError

MADE, HUMAN = ("slic", "felzenszwalb"), "human"
TOLD = {
    "slic": "SLIC's superpixels, as many as classes",
    "felzenszwalb": "Felzenszwalb's segments (scale 100, sigma 0.5, at least 20 pixels)",
    "human": "people's segments (BSDS500), the mean over people",
}


def of(pair: Pair, tokens: int, scale: int, human: Path | None = None) -> dict[str, list[np.ndarray]]:
    """By kind: maps int64 [H, W] of the LR picture, of segments from 0 on. Of people none where a picture has none.

    Raises SpecError for a folder without .mat files, or a file that holds no segmentation of this picture.
    """
    colours = np.clip(pair.lq, 0, 1)
    colours = colours if colours.shape[2] == 3 else np.repeat(colours, 3, axis=2)
    segments = felzenszwalb(colours.astype(np.float64), scale=100, sigma=0.5, min_size=20, channel_axis=-1)
    found = {"slic": [sort_keys.make("slic", pair.lq, tokens)], "felzenszwalb": [segments.astype(np.int64)]}
    if human is not None:
        found[HUMAN] = people(human, pair, scale)
    return found


def people(folder: Path, pair: Pair, scale: int) -> list[np.ndarray]:
    """Every person's segments of a picture, at the centres of its LR pixels."""
    path = _files(folder).get(pair.stem)
    if path is None:
        return []
    try:
        whole = [entry["Segmentation"][0, 0] for entry in loadmat(path)["groundTruth"][0]]
    # SciPy reads MATLAB files up to version 7.2 and refuses those of 7.3 with NotImplementedError.
    except (OSError, KeyError, IndexError, TypeError, ValueError, NotImplementedError) as error:
        raise SpecError(f"{path} holds no segmentations as BSDS500's files do: {error}") from error
    height, width = pair.lq.shape[:2]
    if any(one.shape[0] < scale * height or one.shape[1] < scale * width for one in whole):
        raise SpecError(f"{path} is of another picture than {pair.dataset}/{pair.stem}: it is smaller")
    small = [one[scale // 2 :: scale, scale // 2 :: scale][:height, :width] for one in whole]
    return [np.unique(one, return_inverse=True)[1].reshape(one.shape) for one in small]


@cache
def _files(folder: Path) -> dict[str, Path]:
    found = {path.stem: path for path in sorted(folder.rglob("*.mat"))}
    if not found:
        raise SpecError(f"{folder} holds no .mat file: give the folder of BSDS500's groundTruth")
    return found
