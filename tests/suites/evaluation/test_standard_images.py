"""Scores of standard images: those of the literature, and those of the official weights in the official code."""

import pytest

import models
from suites.data import find
from suites.evaluation.filing import score_set
from suites.spec import Protocol, Task


def scores(*arguments, **options):
    """Rows by image, filed nowhere. Raises what stopped the scoring."""
    return score_set(*arguments, **options).checked()


BICUBIC = {  # published: set -> scale -> (PSNR, SSIM)
    "Set5": {2: (33.66, 0.9299), 3: (30.39, 0.8682), 4: (28.42, 0.8104)},
    "Set14": {2: (30.24, 0.8688), 3: (27.55, 0.7742), 4: (26.00, 0.7027)},
}


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", list(BICUBIC))
def test_bicubic_scores_are_the_published_ones(shared, name, scale):
    task = Task("sr", scale)
    rows = scores("bicubic", task, find(name, shared / "data"), Protocol.baseline(task))
    psnr, ssim = BICUBIC[name][scale]
    assert rows.psnr.mean() == pytest.approx(psnr, abs=0.015)
    assert rows.ssim.mean() == pytest.approx(ssim, abs=0.001)


@pytest.mark.parametrize(
    ("name", "task", "psnr"),
    [("Classic5", "jpeg-10", 27.82), ("Classic5", "jpeg-40", 32.43), ("LIVE1", "jpeg-10", 27.77)],
)
def test_jpeg_files_score_what_the_literature_says(shared, name, task, psnr):
    task = Task.parse(task)
    rows = scores("identity", task, find(name, shared / "data"), Protocol.baseline(task))
    assert rows.psnr.mean() == pytest.approx(psnr, abs=0.02)


def test_noisy_images_score_what_the_noise_makes_them(shared):
    task = Task("denoise", 25)
    rows = scores("identity", task, find("CBSD68", shared / "data"), Protocol.baseline(task))
    assert len(rows) == 68 and rows.psnr.mean() == pytest.approx(20.543, abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "routing", "psnr", "tolerance", "ssim"),
    [(4, "argmax", 32.462, 0.005, None), (4, "gumbel", 32.502, 0.02, 0.8992), (2, "gumbel", 38.257, 0.02, 0.9615)],
)
def test_official_weights_score_what_the_official_network_scores(shared, scale, routing, psnr, tolerance, ssim):
    """Set5 in official tiles, against the official code and weights on a GPU (samples: the mean of three seeds)."""
    task = Task("sr", scale)
    model = models.build("mambairv2-light", **task.network, routing=routing)
    models.load_weights(model, shared / "weights" / f"mambairv2_lightSR_x{scale}.pth")
    rows = scores(model, task, find("Set5", shared / "data"), Protocol.official(task, routing=routing))
    assert rows.psnr.mean() == pytest.approx(psnr, abs=tolerance)
    if ssim is not None:  # not measured with argmax
        assert rows.ssim.mean() == pytest.approx(ssim, abs=0.0004)
