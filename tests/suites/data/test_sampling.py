"""The draws of training: uniform, paired between variants, keyed by (seed, step, sample) and nothing else."""

import time

import numpy as np
import pytest
from scipy import stats

from suites.data import sampling

HEIGHTS = np.array([40, 33, 64, 20, 51])
WIDTHS = np.array([36, 80, 20, 20, 47])
PATCH = 16


def draw(seed: int, step: int, batch: int = 8) -> sampling.Patches:
    return sampling.draw_patches(seed, step, batch, HEIGHTS, WIDTHS, PATCH)


def fields(patches: sampling.Patches) -> np.ndarray:
    return np.stack([np.asarray(value, dtype=np.int64) for value in vars(patches).values()], axis=1)  # [B, 6]


def test_a_draw_depends_on_seed_step_and_sample_alone():
    assert np.array_equal(fields(draw(3, 7)), fields(draw(3, 7)))
    assert not np.array_equal(fields(draw(3, 7)), fields(draw(3, 8)))
    assert not np.array_equal(fields(draw(3, 7)), fields(draw(4, 7)))
    small = sampling.draw_noise(1, 2, (3, 16, 16, 3))
    assert np.array_equal(small, sampling.draw_noise(1, 2, (5, 16, 16, 3))[:3])


def test_seeds_share_nothing():
    """Positions of two seeds agree no more often than by chance, and their noise is uncorrelated."""
    first, second = (np.concatenate([fields(draw(seed, step)) for step in range(1, 400)]) for seed in (0, 1))
    same = (first[:, 1:3] == second[:, 1:3]).all(axis=1) & (first[:, 0] == second[:, 0])
    positions = (HEIGHTS - PATCH + 1) * (WIDTHS - PATCH + 1)
    expected = (1 / positions).mean() / len(HEIGHTS) * len(same)
    assert same.sum() < expected + 6 * expected**0.5 + 1
    a, b = (sampling.draw_noise(seed, 1, (1, 100, 100, 1)).ravel() for seed in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / 100


def test_every_image_once_per_epoch_in_a_new_order():
    images = np.concatenate([sampling.draw_images(0, step, 8, 5) for step in range(1, 26)]).reshape(40, 5)
    assert (np.sort(images, axis=1) == np.arange(5)).all()
    assert len({tuple(epoch) for epoch in images}) > 30  # of 120 orders


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return np.concatenate([fields(draw(0, step)) for step in range(1, 5001)])


def test_crops_are_uniform_over_all_positions(many):
    for image, (height, width) in enumerate(zip(HEIGHTS, WIDTHS, strict=True)):
        chosen = many[many[:, 0] == image]
        assert len(chosen) == 8000
        for column, size in ((1, height), (2, width)):
            counts = np.bincount(chosen[:, column], minlength=size - PATCH + 1)
            assert len(counts) == size - PATCH + 1  # none past the border
            assert stats.chisquare(counts).pvalue > 1e-4


def test_the_eight_symmetries_are_equally_likely(many):
    """The official flips and transposition make every element of the dihedral group with probability 1/8."""
    square = np.arange(9, dtype=np.uint8).reshape(3, 3)
    group = {np.rot90(m, k).tobytes() for m in (square, square.T) for k in range(4)}
    codes = many[:, 3] * 4 + many[:, 4] * 2 + many[:, 5]
    counts = np.bincount(codes, minlength=8)
    reached = set()
    for code in range(8):
        picture = square
        picture = picture[:, ::-1] if code & 4 else picture
        picture = picture[::-1] if code & 2 else picture
        reached.add((picture.T if code & 1 else picture).tobytes())
    assert reached == group
    assert stats.chisquare(counts).pvalue > 1e-4


def test_noise_is_standard_normal():
    noise = sampling.draw_noise(5, 9, (4, 64, 64, 3))
    assert noise.dtype == np.float32
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-4


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("code", range(8))
def test_strided_view_equals_slicing(scale, code):
    """Patches of every symmetry against crop, flip, flip, transpose written out."""
    rng = np.random.default_rng(code)
    images = [rng.integers(0, 1000, (h * scale, w * scale)) for h, w in zip(HEIGHTS, WIDTHS, strict=True)]
    flat = np.concatenate([image.ravel() for image in images])
    areas = HEIGHTS * WIDTHS
    hflip, vflip, transpose = bool(code & 4), bool(code & 2), bool(code & 1)
    top, left = HEIGHTS - PATCH, (WIDTHS - PATCH) // 2
    flags = [np.full(5, flag) for flag in (hflip, vflip, transpose)]
    views = sampling.Patches(np.arange(5), top, left, *flags).strides(areas.cumsum() - areas, WIDTHS, PATCH, scale)
    i, j = np.mgrid[: PATCH * scale, : PATCH * scale]
    for image, y, x, (base, down, right) in zip(images, top * scale, left * scale, views, strict=True):
        expected = image[y : y + PATCH * scale, x : x + PATCH * scale]
        expected = expected[:, ::-1] if hflip else expected
        expected = expected[::-1] if vflip else expected
        expected = expected.T if transpose else expected
        assert np.array_equal(flat[base + i * down + j * right], expected)


def test_prefetch_keeps_order_works_ahead_and_passes_errors_on():
    made = []

    def fetch(step: int) -> int:
        if step == 6:
            raise KeyError("step six")
        made.append(step)
        return step * 10

    fetched = sampling.prefetch(fetch, range(1, 9), depth=3)
    assert next(fetched) == 10
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [1, 2, 3, 4]  # no more than `depth` ahead of what was taken
    assert [next(fetched) for _ in range(4)] == [20, 30, 40, 50]
    with pytest.raises(KeyError, match="step six"):
        next(fetched)
