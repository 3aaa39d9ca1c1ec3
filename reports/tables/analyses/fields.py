"""Effective receptive fields of a set: means of stored maps, and the squares that hold a share of them.

`replknet` takes squares of log10(field + 1), `mambair` of field^0.25, as it shows fields; both need the mean map
itself, so areas of a set are taken from arrays and not from rows of images.
"""

import math

import numpy as np

from results.analyses import MEAN, Record


class NoMaps(ValueError):
    """No map is stored of a record, so that nothing can be said of its mean."""


def mean_field(record: Record, procedure: str) -> np.ndarray:
    """The mean map [H, W] over the images (and seeds) of a record. Raises NoMaps."""
    found = []
    for image in (*record.rows["image"].unique(), MEAN):
        found += [values for name, values in record.arrays(image).items() if name.startswith(f"{procedure}/")]
    if not found:
        weights = record.key["weights"][:8]
        raise NoMaps(f"{record.key['dataset']}, weights {weights}: no maps are stored; run analyse erf")
    return np.mean(found, axis=0, dtype=np.float64)


def shown(field: np.ndarray, procedure: str) -> np.ndarray:
    """The field [H, W] as a procedure looks at it, over its maximum."""
    values = np.log10(field + 1) if procedure == "replknet" else field**0.25
    return values / values.max() if values.max() > 0 else values


def within(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sides of centred squares in pixels, shares of the field inside them)."""
    height, width = field.shape
    distance = np.maximum(np.abs(np.arange(height) - height // 2)[:, None], np.abs(np.arange(width) - width // 2))
    held = np.cumsum(np.bincount(distance.ravel(), weights=field.ravel()))
    return 2 * np.arange(len(held)) + 1, held / held[-1]


def side_of(record: Record, procedure: str, share: float) -> tuple[float, float]:
    """(side in pixels, area over the image's) of the smallest square with more than `share`, of 3 pixels on and less
    than the height; NaN where none has it. Raises NoMaps."""
    values = shown(mean_field(record, procedure), procedure)
    sides, shares = within(values)
    large = np.nonzero((shares > share) & (sides >= 3) & (sides < 2 * (values.shape[0] // 2)))[0]
    if len(large) == 0:
        return math.nan, math.nan
    side = float(sides[large[0]])
    return side, side**2 / values.size
