"""Labels against pictures whose clusters are known, and against the libraries' own partitions."""

import warnings

import numpy as np
import pytest
from scipy.cluster.vq import kmeans2
from skimage.segmentation import slic

from suites.data import sort_keys
from suites.spec import SpecError

COLOURS = {"blue": (0.0, 0.0, 1.0), "red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0)}  # from dark to light in luma


def luma(rgb):
    return rgb @ np.array([0.299, 0.587, 0.114])


@pytest.fixture
def flag():
    """Three upright stripes, green, blue, red: in luma the third, first and second."""
    stripes = [np.full((12, 10, 3), COLOURS[name]) for name in ("green", "blue", "red")]
    return np.concatenate(stripes, axis=1).astype(np.float32)


@pytest.fixture
def noisy():
    """A smooth colour picture with some noise, float32 [40, 52, 3]."""
    y, x = np.mgrid[:40, :52] / 52
    smooth = np.stack([x, y, 1 - x], axis=-1)
    return np.clip(smooth + np.random.default_rng(0).normal(0, 0.05, smooth.shape), 0, 1).astype(np.float32)


def same_partition(a, b):
    """Two labellings that differ by the names of the clusters only."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1).shape[1]
    return pairs == len(np.unique(a)) == len(np.unique(b))


@pytest.mark.parametrize("kind", sort_keys.KINDS)
def test_three_stripes_are_numbered_by_luma(flag, kind):
    made = sort_keys.make(kind, flag, 3)
    assert made.dtype == np.int64
    np.testing.assert_array_equal(made, np.broadcast_to(np.repeat([2, 0, 1], 10), (12, 30)))


@pytest.mark.parametrize("kind", sort_keys.KINDS)
@pytest.mark.parametrize("tokens", [1, 8, 64])
def test_numbers_have_no_gaps_and_rise_with_mean_luma(noisy, kind, tokens):
    made = sort_keys.make(kind, noisy, tokens)
    count = made.max() + 1
    assert made.shape == (40, 52) and made.min() == 0 and count <= tokens
    assert set(np.unique(made)) == set(range(count))
    means = [luma(noisy[made == label].astype(np.float64)).mean() for label in range(count)]
    assert (np.diff(means) >= -1e-4).all()
    assert tokens == 1 or count > tokens // 2


def test_kmeans_is_scipys_on_colour_and_position(noisy):
    y, x = np.mgrid[:40, :52]
    points = np.concatenate([noisy.astype(np.float64), (x / 52)[..., None], (y / 40)[..., None]], -1).reshape(-1, 5)
    _, expected = kmeans2(points, 16, iter=20, minit="++", seed=0)
    assert same_partition(sort_keys.make("kmeans", noisy, 16), expected)


def test_slic_is_scikit_images(noisy):
    segments = slic(noisy.astype(np.float64), n_segments=25, compactness=10)
    assert len(np.unique(segments)) <= 25
    assert same_partition(sort_keys.make("slic", noisy, 25), segments)


def test_slic_may_make_more_segments_than_asked_for_and_labels_stay_within_the_tokens(noisy):
    segments = slic(noisy.astype(np.float64), n_segments=16, compactness=10)
    assert len(np.unique(segments)) > 16
    made = sort_keys.make("slic", noisy, 16)
    assert len(np.unique(made)) == 16
    assert all(len(np.unique(made[segments == one])) == 1 for one in np.unique(segments))


def test_segments_beyond_the_tokens_share_a_label_with_the_nearest_in_luma(monkeypatch):
    lq = np.linspace(0, 1, 5, dtype=np.float32)[None, :, None] ** 2  # gray 0, 1/16, 1/4, 9/16, 1
    monkeypatch.setattr(sort_keys, "slic", lambda *args, **kwargs: np.array([[4, 7, 1, 0, 2]]))
    assert sort_keys.make("slic", lq, 5).tolist() == [[0, 1, 2, 3, 4]]
    assert sort_keys.make("slic", lq, 4).tolist() == [[0, 0, 1, 2, 3]]
    assert sort_keys.make("slic", lq, 3).tolist() == [[0, 0, 0, 1, 2]]
    assert sort_keys.make("slic", lq, 1).tolist() == [[0, 0, 0, 0, 0]]


@pytest.mark.parametrize("kind", sort_keys.KINDS)
def test_made_twice_they_are_equal_and_the_global_generator_is_not_touched(noisy, kind):
    np.random.seed(5)
    first = sort_keys.make(kind, noisy, 32)
    after = np.random.random()
    np.random.seed(5)
    assert after == np.random.random()
    np.testing.assert_array_equal(first, sort_keys.make(kind, noisy, 32))


@pytest.mark.parametrize("kind", sort_keys.KINDS)
def test_gray_is_rgb_with_three_equal_channels_and_values_are_clipped(noisy, kind):
    gray = noisy[..., :1]
    np.testing.assert_array_equal(sort_keys.make(kind, gray, 8), sort_keys.make(kind, np.repeat(gray, 3, -1), 8))
    wild = noisy * 4 - 1.5
    np.testing.assert_array_equal(sort_keys.make(kind, wild, 8), sort_keys.make(kind, np.clip(wild, 0, 1), 8))


@pytest.mark.parametrize("kind", sort_keys.KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2)])
def test_images_smaller_than_the_tokens(kind, size):
    lq = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = sort_keys.make(kind, lq, 64)
    assert made.shape == size and set(np.unique(made)) == set(range(made.max() + 1))


def test_a_flat_picture_is_split_by_position_only():
    made = sort_keys.make("kmeans", np.full((32, 32, 3), 0.5, np.float32), 4)
    assert set(np.unique(made)) == {0, 1, 2, 3} and np.bincount(made.ravel()).min() > 150


def test_another_kind_is_refused(noisy):
    with pytest.raises(SpecError, match=r"labels 'colour'.*kmeans, slic"):
        sort_keys.make("colour", noisy, 8)
