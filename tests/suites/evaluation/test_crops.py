"""Crops: the window where the restored picture is farthest from the truth, of pictures that may be passed on."""

import io

import numpy as np
import pytest
from PIL import Image

from reports.pages import pictures
from results import crops, measured
from results.evidence import Evidence
from results.store import Store
from suites.data.resize import imresize
from suites.evaluation import crops as cutting
from suites.spec import Task

SR, JPEG = Task.parse("sr-x2"), Task.parse("jpeg-10")
FACTS = dict.fromkeys(crops.FACTS, "x") | {"psnr": 30.0, "task": "sr-x2", "protocol": {"tiling": "none"}}


@pytest.mark.parametrize(
    ("name", "may"), [("embedded", True), ("my holiday", True), ("Set5", False), ("set_14", False), ("B100", False)]
)
def test_pictures_of_known_sets_are_never_kept(name, may):
    assert cutting.may_be_kept(name) == may


def test_the_window_holds_the_largest_error():
    truth = np.full((300, 402, 3), 128, np.uint8)
    restored = truth.copy()
    restored[200:220, 300:330] = 255
    top, left, height, width = cutting.window(restored, truth, 2)
    assert (height, width) == (120, 120) and top % 2 == left % 2 == 0
    assert top <= 200 and top + height >= 220 and left <= 300 and left + width >= 330
    assert cutting.window(restored[:50, :40], truth[:50, :40], 2) == (0, 0, 50, 40)


def test_views_are_cut_from_one_place():
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 256, (200, 240, 3), dtype=np.uint8)
    degraded = draw.integers(0, 256, (100, 120, 3), dtype=np.uint8)
    restored = truth / 255
    restored[:100] = 0.5  # the error lies above
    views, (top, left, height, width) = cutting.views(SR, degraded / np.float32(255), restored, truth)
    here = np.s_[top : top + height, left : left + width]
    assert np.array_equal(views["truth"], truth[here]) and views["restored"].shape == (120, 120, 3)
    small = np.s_[top // 2 : (top + height) // 2, left // 2 : (left + width) // 2]
    assert np.array_equal(views["degraded"], degraded[small])
    assert np.array_equal(views["bicubic"], imresize(degraded, 2)[here])
    gray = truth[..., 0]
    views, _ = cutting.views(JPEG, gray[..., None] / np.float32(255), gray[..., None] / 255, gray)
    assert set(views) == {"degraded", "restored", "truth"} and views["degraded"].shape == (120, 120)


def test_what_is_stored_comes_back_with_its_facts(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "nothing committed")
    store, folder = Store(tmp_path), tmp_path / "evaluations" / ("0" * 16)
    kept = cutting.Kept(SR)
    truth = np.zeros((40, 40, 3), np.uint8)
    kept.keep("cat", np.zeros((20, 20, 3), np.float32), np.full((40, 40, 3), 3 / 255), truth, 28.5)
    kept.file(folder, {name: FACTS[name] for name in crops.FACTS if name not in ("image", "psnr", "window", "date")})
    (found,) = crops.load(store)
    assert found.facts["image"] == "cat" and found.facts["window"] == [0, 0, 40, 40] and not found.committed
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found.views["truth"]))), truth)
    (slider,) = pictures.load(Evidence(store))
    assert [view["label"] for view in slider["views"]] == ["low resolution", "bicubic", "restored", "truth", "error"]
    error = Image.open(io.BytesIO(pictures.error_map(found.views["restored"], found.views["truth"])))
    assert np.array_equal(np.unique(np.asarray(error)), [3 * pictures.GAIN])
    (folder / "crops" / "cat" / "truth.png").unlink()
    assert crops.load(store) == []
