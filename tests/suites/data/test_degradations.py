"""Degradations: against the official rules spelled out, closed forms, and the literature's figures on its images."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from suites.data import DataError, degradations, find
from suites.spec import SpecError, Task


@pytest.fixture
def colour():
    return np.random.default_rng(0).integers(0, 256, (25, 38, 3), dtype=np.uint8)


def psnr(a, b):
    return peak_signal_noise_ratio(a, b, data_range=255)


def as_uint8(lq):
    return np.rint(np.clip(lq, 0, 1) * 255).astype(np.uint8)


def test_luma_is_bt601_of_limited_range():
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(degradations.luma(primaries)[0], [81.481, 144.553, 40.966, 16, 235])
    assert degradations.luma_uint8(primaries)[0].tolist() == [81, 145, 41, 16, 235]


def test_noise_is_the_official_array(colour):
    """basicsr: numpy's global seed 0 before the image, drawn in the order of OpenCV's channels, sum in float64."""
    state = np.random.get_state()
    np.random.seed(0)
    bgr = colour[..., ::-1].astype(np.float32) / 255.0
    official = (bgr + np.random.normal(0, 25 / 255.0, bgr.shape)).astype(np.float32)[..., ::-1]
    np.random.set_state(state)
    got = degradations.gaussian_noise(colour, 25)
    assert got.dtype == np.float32 and np.array_equal(got, official)
    assert np.array_equal(got, degradations.gaussian_noise(colour, 25))
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), state, strict=True))


def test_noise_begins_with_the_known_numbers_of_seed_0_in_blue():
    black = np.zeros((2, 2, 3), np.uint8)
    blue_green_red = degradations.gaussian_noise(black, 51)[0, 0, ::-1] / 0.2
    np.testing.assert_allclose(blue_green_red, [1.764052345967664, 0.4001572083672233, 0.9787379841057392], rtol=1e-6)


def test_noise_is_not_clipped_and_not_rounded(colour):
    noisy = degradations.gaussian_noise(colour, 50)
    assert noisy.min() < 0 and noisy.max() > 1
    assert np.abs(noisy * 255 - np.rint(noisy * 255)).max() > 0.4


def test_jpeg_is_pillows_gray_file(colour):
    gray = colour[..., 0]
    buffer = BytesIO()
    Image.fromarray(gray).save(buffer, "JPEG", quality=10)
    got = degradations.jpeg(gray, 10)
    assert np.array_equal(got, np.array(Image.open(buffer)))
    assert got.shape == gray.shape and psnr(gray, got) < psnr(gray, degradations.jpeg(gray, 40))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_is_made_of_the_cropped_ground_truth(colour, scale):
    lq, truth = degradations.degrade(Task("sr", scale), colour, "matlab")
    height, width = 25 // scale, 38 // scale
    assert truth.shape == (height * scale, width * scale, 3) and np.array_equal(
        truth, colour[: len(truth), : truth.shape[1]]
    )
    assert lq.shape == (height, width, 3) and lq.dtype == np.float32
    assert np.array_equal(lq * 255, np.rint(lq * 255)) and lq.max() <= 1
    again, _ = degradations.degrade(Task("sr", scale), truth, "matlab")
    assert np.array_equal(lq, again)


def test_a_gray_picture_is_repeated_for_networks_and_stays_gray_as_truth(colour):
    gray = np.ascontiguousarray(colour[..., 0])
    for task, route in ((Task("sr", 2), "matlab"), (Task("denoise", 15), None)):
        lq, truth = degradations.degrade(task, gray, route)
        assert lq.shape[2] == 3 and truth.ndim == 2
    lq, _ = degradations.degrade(Task("sr", 2), gray, "matlab")
    assert (lq == lq[..., :1]).all()


def test_jpeg_takes_the_luma_of_colour_and_gray_as_it_is(colour):
    lq, truth = degradations.degrade(Task("jpeg", 30), colour, None)
    assert np.array_equal(truth, degradations.luma_uint8(colour)) and lq.shape == (25, 38, 1)
    _, gray_truth = degradations.degrade(Task("jpeg", 30), colour[..., 1], None)
    assert np.array_equal(gray_truth, colour[..., 1])


def test_the_luma_route_is_the_enlarged_baseline(colour):
    lq, truth = degradations.degrade(Task("sr", 2), colour, "luma")
    assert lq.shape == (24, 38, 1) and truth.shape == (24, 38, 3)
    flat = np.full((12, 12), 131, np.uint8)  # gray as it is: no range is changed
    assert (as_uint8(degradations.degrade(Task("sr", 3), flat, "luma")[0]) == 131).all()


def test_routes_differ_by_their_rounding_and_their_border():
    big = np.random.default_rng(1).integers(64, 192, (100, 152, 3), dtype=np.uint8)  # nothing clips
    matlab, once, pil = (degradations.LR_MAKERS[route](big, 2).astype(int) for route in ("matlab", "once", "pil"))
    assert 0 < (matlab != once).mean() < 0.5 and np.abs(matlab - once).max() <= 2
    inner = (slice(4, -4), slice(4, -4))
    assert np.abs(pil - once)[inner].max() <= 2
    assert np.abs(pil - once).max() > 4  # the border: mirrored or cut off


def test_refusals(colour):
    with pytest.raises(DataError, match="3x9 pixels is too small for a scale of 4"):
        degradations.degrade(Task("sr", 4), colour[:3, :9], "matlab")
    with pytest.raises(SpecError, match="choose from matlab, once, pil, luma"):
        degradations.degrade(Task("sr", 2), colour, "lanczos")


def test_one_pixel_is_enough_without_a_scale():
    one = np.full((1, 1, 3), 200, np.uint8)
    assert degradations.degrade(Task("denoise", 15), one, None)[0].shape == (1, 1, 3)
    assert degradations.degrade(Task("jpeg", 40), one, None)[0].shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("dataset", "scale", "expected_psnr", "expected_ssim"),
    [
        ("Set5", 2, 33.661, 0.9299),
        ("Set5", 3, 30.392, 0.8682),
        ("Set5", 4, 28.421, 0.8104),
        ("Set14", 2, 30.232, 0.8687),
        ("Set14", 3, 27.541, 0.7736),
        ("Set14", 4, 26.000, 0.7019),
    ],
)
def test_bicubic_scores_of_the_literature(shared, dataset, scale, expected_psnr, expected_ssim):
    scores = []
    for picture in find(dataset, shared / "data").images():
        truth = degradations.modcrop(picture.pixels, scale)
        restored = degradations.bicubic_luma(truth, scale)
        truth = truth if truth.ndim == 2 else degradations.luma_uint8(truth)
        a, b = (y[scale:-scale, scale:-scale] for y in (truth, restored))
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
        scores.append((psnr(a, b), structural_similarity(a, b, **options)))
    mean = np.mean(scores, axis=0)
    assert mean[0] == pytest.approx(expected_psnr, abs=6e-4)
    assert mean[1] == pytest.approx(expected_ssim, abs=6e-5)


@pytest.mark.parametrize(
    ("dataset", "quality", "expected"),
    [("Classic5", 10, 27.821), ("Classic5", 40, 32.428), ("LIVE1", 10, 27.770), ("LIVE1", 40, 32.355)],
)
def test_psnr_of_the_jpeg_files(shared, dataset, quality, expected):
    scores = []
    for picture in find(dataset, shared / "data").images():
        lq, truth = degradations.degrade(Task("jpeg", quality), picture.pixels, None)
        scores.append(psnr(truth, as_uint8(lq[..., 0])))
    assert np.mean(scores) == pytest.approx(expected, abs=6e-4)


def test_psnr_of_the_noisy_images(shared):
    scores = []
    for picture in find("CBSD68", shared / "data").images():
        pairs = (degradations.degrade(Task("denoise", sigma), picture.pixels, None) for sigma in (15, 25, 50))
        scores.append([psnr(truth, as_uint8(lq)) for lq, truth in pairs])
    np.testing.assert_allclose(np.mean(scores, axis=0), [24.844, 20.543, 15.004], atol=6e-4)


def test_a_single_rounding_misses_a_tenth_of_matlabs_pixels(shared):
    baby = next(find("Set5", shared / "data").images("baby")).pixels
    equal = (degradations.lr_once(baby, 2) == degradations.lr_matlab(baby, 2)).mean()
    assert 0.8 < equal < 0.95
