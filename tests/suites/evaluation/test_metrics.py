"""PSNR against its closed form, SSIM against a direct float64 sum over windows, and what each protocol compares."""

import numpy as np
import pytest

from suites.evaluation import metrics
from suites.spec import Protocol, Task


def direct_ssim(a, b):
    """SSIM from its definition: one loop over every 11x11 window inside the image, float64 [H, W]."""
    offsets = np.arange(-5, 6)
    bell = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(bell, bell) / np.outer(bell, bell).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
            var_p, var_q = (weights * (p - mean_p) ** 2).sum(), (weights * (q - mean_q) ** 2).sum()
            covariance = (weights * (p - mean_p) * (q - mean_q)).sum()
            values.append(
                (2 * mean_p * mean_q + c1)
                * (2 * covariance + c2)
                / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
            )
    return float(np.mean(values))


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (19, 23, 3), dtype=np.uint8)
    return a, np.clip(a + rng.normal(0, 12, a.shape), 0, 255).astype(np.uint8)


def test_psnr_is_its_closed_form():
    a = np.full((8, 9, 3), 100, np.uint8)
    b = a.copy()
    b[2:4, 3, 1] = 117  # two values off by 17 of 8*9*3: mse = 2 * 289 / 216
    assert metrics.psnr(a, b) == pytest.approx(10 * np.log10(255**2 * 216 / 578), abs=1e-12)
    assert metrics.psnr(a, a + 1) == pytest.approx(20 * np.log10(255), abs=1e-12)


def test_psnr_of_identical_images_is_none_and_their_ssim_one(pair):
    assert metrics.psnr(pair[0], pair[0]) is None
    assert metrics.ssim(pair[0], pair[0]) == pytest.approx(1, abs=1e-12)


def test_the_border_is_not_scored(pair):
    a, b = pair
    spoiled = b.copy()
    spoiled[:2], spoiled[-2:], spoiled[:, :2], spoiled[:, -2:] = 0, 0, 0, 0
    assert metrics.psnr(a, spoiled, 2) == metrics.psnr(a[2:-2, 2:-2], b[2:-2, 2:-2])
    assert metrics.ssim(a, spoiled, 2) == metrics.ssim(a[2:-2, 2:-2], b[2:-2, 2:-2])
    assert metrics.psnr(a, spoiled, 1) < metrics.psnr(a, b, 1) - 1


def test_ssim_equals_the_direct_sum(pair):
    a, b = (image.astype(np.float64) for image in pair)
    expected = [direct_ssim(a[..., c], b[..., c]) for c in range(3)]
    assert metrics.ssim(a[..., 0], b[..., 0]) == pytest.approx(expected[0], abs=1e-10)
    assert metrics.ssim(*pair) == pytest.approx(np.mean(expected), abs=1e-10)
    assert metrics.ssim(*pair, 3) == pytest.approx(
        np.mean([direct_ssim(a[3:-3, 3:-3, c], b[3:-3, 3:-3, c]) for c in range(3)]), abs=1e-10
    )


def test_ssim_needs_a_window_of_eleven(pair):
    a, b = pair
    assert metrics.ssim(a[:11, :11], b[:11, :11]) == pytest.approx(
        np.mean([direct_ssim(a[:11, :11, c].astype(float), b[:11, :11, c].astype(float)) for c in range(3)])
    )
    assert metrics.ssim(a[:10], b[:10]) is None
    assert metrics.ssim(a[:14], b[:14], 2) is None and metrics.psnr(a[:14], b[:14], 2) is not None


@pytest.mark.parametrize("side", [1, 3, 4])
def test_nothing_left_to_score_is_refused(side):
    image = np.zeros((side, 40), np.uint8)
    with pytest.raises(metrics.MetricError, match=rf"{side}x40 pixels.*at least 5x5"):
        metrics.psnr(image, image, 2)


def test_other_shapes_are_refused():
    with pytest.raises(metrics.MetricError, match="4x5 and 5x4"):
        metrics.psnr(np.zeros((4, 5)), np.zeros((5, 4)))


def test_one_pixel_has_a_psnr():
    a, b = np.array([[10]], np.uint8), np.array([[20]], np.uint8)
    assert metrics.psnr(a, b) == pytest.approx(10 * np.log10(255**2 / 100))
    assert metrics.ssim(a, b) is None


def test_quantise_clips_and_rounds():
    values = np.array([-0.3, 0, 0.49 / 255, 0.51 / 255, 254.51 / 255, 1, 7], np.float32)
    assert metrics.quantise(values).tolist() == [0, 0, 0, 1, 255, 255, 255]
    every = np.arange(256, dtype=np.float32) / np.float32(255)
    assert metrics.quantise(every).tolist() == list(range(256))


def bt601(rgb):
    """Luma of ITU-R BT.601, limited range, from 8 bit RGB."""
    return 16 + (65.481 * rgb[..., 0] + 128.553 * rgb[..., 1] + 24.966 * rgb[..., 2]) / 255.0


def test_super_resolution_compares_luma_that_is_not_rounded(pair):
    protocol = Protocol.official(Task("sr", 2))
    np.testing.assert_allclose(metrics.compared(pair[0], protocol), bt601(pair[0].astype(np.float64)), atol=1e-9)
    gray = pair[0][..., 0]
    np.testing.assert_allclose(metrics.compared(gray, protocol), 16 + 219 * gray.astype(np.float64) / 255, atol=1e-9)


def test_baselines_compare_luma_as_uint8_and_a_gray_image_as_it_is(pair):
    protocol = Protocol.baseline(Task("sr", 2))
    out = metrics.compared(pair[0], protocol)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, np.rint(bt601(pair[0].astype(np.float64))))
    np.testing.assert_array_equal(metrics.compared(pair[0][..., :1], protocol), pair[0][..., 0])


def test_denoising_compares_rgb_and_jpeg_gray(pair):
    np.testing.assert_array_equal(metrics.compared(pair[0], Protocol.official(Task("denoise", 15))), pair[0])
    gray = pair[0][..., 0]
    repeated = metrics.compared(gray, Protocol.official(Task("denoise", 15)))
    assert repeated.shape == (19, 23, 3) and (repeated == gray[..., None]).all()
    jpeg = Protocol.official(Task("jpeg", 10))
    np.testing.assert_array_equal(metrics.compared(gray[..., None], jpeg), gray)
    with pytest.raises(metrics.MetricError, match="gray"):
        metrics.compared(pair[0], jpeg)


def test_score_puts_it_together(pair):
    truth, _ = pair
    output = truth / np.float32(255) + np.float32(3.4 / 255)  # rounds to truth + 3, clipped at 255
    expected = np.minimum(truth.astype(int) + 3, 255).astype(np.float64)
    a, b = bt601(expected)[2:-2, 2:-2], bt601(truth.astype(np.float64))[2:-2, 2:-2]
    psnr, ssim = metrics.score(output, truth, Protocol.official(Task("sr", 2)))
    assert psnr == pytest.approx(10 * np.log10(255**2 / np.mean((a - b) ** 2)), abs=1e-9)
    assert ssim == pytest.approx(direct_ssim(a, b), abs=1e-9)
