"""MATLAB's imresize: against exact rational arithmetic, closed forms, and MATLAB's own files where they are there."""

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from suites.data.resize import contributions, imresize, round_uint8


def exact_cubic(x):
    """Keys' kernel with a = -1/2 for a Fraction."""
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x < 2:
        return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


def exact_rows(image, scale):
    """One dimension of an antialiased shrink by an integer, from the definition: list of rows of Fractions."""
    height = image.shape[0]
    rows = []
    for i in range(height // scale):
        centre = Fraction(scale * (2 * i + 1) - 1, 2)  # where output i lies, in input pixels from 0
        row = [Fraction(0)] * image.shape[1]
        for j in range(math.floor(centre) - 2 * scale, math.ceil(centre) + 2 * scale + 1):
            weight = exact_cubic((centre - j) / scale) / scale
            source = j % (2 * height)  # mirrored with the edge
            source = source if source < height else 2 * height - 1 - source
            row = [total + weight * int(value) for total, value in zip(row, image[source], strict=True)]
        rows.append(row)
    return rows


def rounded(rows):
    """Half away from zero, clipped to 0..255."""
    return np.array([[min(255, max(0, math.floor(x + Fraction(1, 2)))) for x in row] for row in rows], np.uint8)


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (24, 36), dtype=np.uint8)


@pytest.mark.parametrize("scale", [2, 4])
def test_uint8_equals_exact_arithmetic_rounded_after_each_dimension(noise, scale):
    rows_first = rounded(exact_rows(rounded(exact_rows(noise, scale)).T, scale)).T
    columns_first = rounded(exact_rows(rounded(exact_rows(noise.T, scale)).T, scale))
    assert np.array_equal(imresize(noise, 1 / scale), rows_first)
    assert not np.array_equal(rows_first, columns_first)


def test_uint8_x3_equals_exact_arithmetic_except_at_ties(noise):
    """The weights of x3 are no binary fractions, so a value halfway between two integers may fall to either."""
    exact = exact_rows(noise, 3)
    got = imresize(np.repeat(noise, 3, axis=1), 1 / 3)[:, 1:-1]  # columns of three equal pixels keep nearly all of them
    want = rounded(exact_rows(np.repeat(rounded(exact), 3, axis=1).T, 3)).T[:, 1:-1]
    tie = np.array([[x % 1 == Fraction(1, 2) for x in row] for row in exact])
    near_tie = np.lib.stride_tricks.sliding_window_view(np.pad(tie, ((0, 0), (2, 2))), 5, axis=1).any(-1)[:, 1:-1]
    differs = np.abs(got.astype(int) - want) > 0
    assert not (differs & ~near_tie).any()
    assert near_tie.mean() < 0.2


def test_weights_of_x2_are_their_closed_form():
    index, weight = contributions(32, 0.5)
    assert np.array_equal(weight[8] * 256, [-3, -9, 29, 111, 111, 29, -9, -3])
    assert np.array_equal(index[8], np.arange(13, 21))
    assert np.array_equal(index[0], [2, 1, 0, 0, 1, 2, 3, 4])  # the border is mirrored with its edge


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 2.0, 3.0, 4.0])
def test_a_ramp_stays_a_ramp(scale):
    ramp = np.tile(np.arange(60, dtype=np.float64) * 3 + 5, (48, 1))
    out = imresize(ramp, scale)
    x = (np.arange(out.shape[1]) + 0.5) / scale - 0.5
    inner = slice(out.shape[1] // 6, -(out.shape[1] // 6))
    assert out.shape == (48 * scale, 60 * scale)
    np.testing.assert_allclose(out[:, inner], np.broadcast_to(x * 3 + 5, out.shape)[:, inner], atol=1e-10)


def test_upscaling_interpolates_with_the_plain_kernel():
    impulse = np.zeros((16, 16))
    impulse[8, 8] = 1
    taps = [float(exact_cubic(Fraction(k, 4))) for k in (7, 5, 3, 1, 1, 3, 5, 7)]
    np.testing.assert_allclose(imresize(impulse, 2)[13:21, 13:21], np.outer(taps, taps), atol=1e-15)


def test_floating_point_is_neither_rounded_nor_clipped():
    step = np.zeros((16, 16), np.float32)
    step[:, 8:] = 255
    out = imresize(step, 0.5)
    assert out.dtype == np.float64 and out.min() < 0 and out.max() > 255


def test_channels_are_resized_alone():
    image = np.random.default_rng(1).integers(0, 256, (12, 18, 3), dtype=np.uint8)
    each = np.stack([imresize(np.ascontiguousarray(image[..., c]), 1 / 3) for c in range(3)], axis=2)
    assert np.array_equal(imresize(image, 1 / 3), each)


def test_tiny_images():
    one = np.full((1, 1), 77, np.uint8)
    assert np.array_equal(imresize(one, 2), np.full((2, 2), 77))
    assert np.array_equal(imresize(np.full((2, 2, 3), 9, np.uint8), 0.5), np.full((1, 1, 3), 9))


def test_halves_round_away_from_zero_and_nothing_else_does():
    x = np.array([-0.5, 0.49999999999999994, 0.5, 1.5, 2.5, 254.5, 300.0, 100.49999999999999])
    assert round_uint8(x.copy()).tolist() == [0, 0, 1, 2, 3, 255, 255, 100]


def test_refuses_what_it_cannot_resize():
    with pytest.raises(ValueError, match="int32"):
        imresize(np.zeros((4, 4), np.int32), 0.5)
    with pytest.raises(ValueError, match="0x4"):
        imresize(np.zeros((0, 4), np.uint8), 0.5)


def test_a_2k_image_takes_a_fraction_of_a_second():
    image = np.random.default_rng(2).integers(0, 256, (1404, 2040, 3), dtype=np.uint8)
    times = []
    for _ in range(3):
        start = time.thread_time()
        imresize(image, 0.5)
        times.append(time.thread_time() - start)
    assert min(times) < 0.4


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_pixel_of_matlabs_set5_is_reproduced(shared, scale):
    names = ("baby", "bird", "butterfly", "head", "woman")
    for name in names:
        gt = np.array(Image.open(shared / "data" / "Set5" / f"{name}.png"))
        gt = gt[: gt.shape[0] // scale * scale, : gt.shape[1] // scale * scale]
        matlab = np.array(Image.open(shared / "data" / "Set5" / "LR_bicubic" / f"X{scale}" / f"{name}x{scale}.png"))
        assert np.array_equal(imresize(gt, 1 / scale), matlab), name
