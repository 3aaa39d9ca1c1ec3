"""The embedded pictures: there, the right ones, split, and never fetched."""

import socket
import subprocess
import sys

import numpy as np
import pytest

from suites import data
from suites.data import DataError, check, embedded, find, find_training, manifest


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_they_are_the_listed_ones_by_hash(offline):
    frame = check(None)
    assert (frame["state"] == "ok").all()
    assert set(frame["image"]) == {*embedded.TRAIN, *embedded.TEST} and len(frame) == 11


def test_they_are_split(offline):
    test, train = find("embedded", None), find_training("embedded", None)
    assert test.stems() == ["camera", "chelsea", "coffee"] and test.complete and len(test) == 3
    assert train.name == "embedded-train" and len(train) == len(embedded.TRAIN)
    assert find("embedded-test", None).name == "embedded"
    assert not {p.sha256 for p in test.images()} & {p.sha256 for p in train.images()}
    assert [p.pixels.ndim for p in test.images()] == [2, 3, 3]


def test_both_names_train_on_the_training_half(offline):
    images = data.load_training(("embedded",), None)
    assert len(images) == len(embedded.TRAIN) and all(image.shape[2] == 3 for image in images)
    assert all(np.array_equal(a, b) for a, b in zip(images, data.load_training(("embedded-train",), None), strict=True))


def test_the_test_half_cannot_be_trained_on(monkeypatch):
    monkeypatch.setattr(embedded, "TRAIN", ("astronaut", "chelsea"))
    with pytest.raises(DataError, match="embedded-train/chelsea is embedded/chelsea"):
        data.load_training(("embedded",), None)


def test_no_manifest_of_a_test_set_holds_a_training_picture():
    tested = manifest.test_pictures()
    assert not {entry.sha256 for entry in manifest.read("embedded-train").values()} & tested.keys()


def test_a_picture_that_scikit_image_lacks_is_said_and_not_fetched(monkeypatch, tmp_path, offline):
    monkeypatch.setattr(embedded, "folder", lambda: tmp_path)
    with pytest.raises(
        DataError, match=r"scikit-image has no camera.png, chelsea.png, coffee.png in .*constraints.txt"
    ):
        find("embedded", None)


def test_without_scikit_image_one_line_says_so(monkeypatch):
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="not installed"):
        find("embedded", None)


def test_scikit_images_own_data_module_stays_out():
    """It would fetch through pooch what it does not find."""
    code = (
        "import sys; from suites.data import find, load_training; list(find('embedded', None).images());"
        "load_training(('embedded',), None); print([m for m in ('skimage.data', 'pooch') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
