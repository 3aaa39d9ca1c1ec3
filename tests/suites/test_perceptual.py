"""Perceptual metrics: which pictures are compared with which, and what is said where weights are not to be had."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from suites import perceptual
from suites.data.pictures import load_picture
from suites.spec import SpecError, Task
from tests.runner.helpers import photo

X2 = Task.parse("sr-x2")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A set of two pictures, restored but for a constant of 3 and of 5 of 255."""
    for stem, side, off in (("a", 23, 3), ("b", 24, 5)):
        truth = load_picture(photo(tmp_path / "data" / "Two" / f"{stem}.png", side)).astype(int)
        cut = np.abs(truth[: side // 2 * 2, : side // 2 * 2] - off).astype(np.uint8)
        (tmp_path / "out" / "Two").mkdir(parents=True, exist_ok=True)
        Image.fromarray(cut).save(tmp_path / "out" / "Two" / f"{stem}.png")
    return tmp_path


def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    assert x.shape == y.shape and x.shape[:2] == (1, 3)
    return (x - y).abs().median() * 255


def test_pictures_are_compared_with_their_truth(pictures: Path) -> None:
    asked = (pictures / "out", ["Two"], X2, ["lpips"])
    rows = perceptual.measure(*asked, data=pictures / "data", make=lambda name: distance)
    assert [(row["image"], round(row["lpips"], 3)) for row in rows] == [("a", 3), ("b", 5)]
    (mean,) = perceptual.means(rows, ["lpips"])
    assert mean == {"dataset": "Two", "images": 2, "lpips": pytest.approx(4, abs=1e-3)}
    with pytest.raises(SpecError, match="the truth of sr-x4"):
        perceptual.measure(
            *asked[:2], Task.parse("sr-x4"), ["lpips"], data=pictures / "data", make=lambda name: distance
        )
    with pytest.raises(SpecError, match="--save-images"):
        perceptual.measure(pictures, *asked[1:], data=pictures / "data", make=lambda name: distance)


def test_what_is_missing_is_named(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="choose from lpips, dists"):
        perceptual.make("niqe")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "piq", None)
        with pytest.raises(SpecError, match=r"pip install -e '\.\[perceptual\]'"):
            perceptual.make("lpips")
    try:
        import piq  # noqa: F401
    except Exception as error:
        pytest.skip(f"piq cannot be imported: {error}")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nowhere
    for name in perceptual.METRICS:
        with pytest.raises(SpecError, match=f"the weights of {name} cannot be downloaded.*{name}_weights.*vgg16"):
            perceptual.make(name)
