"""`runner.py compare` of two files of weights, scored on the way, called as a user would."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
from results import measured
from suites.evaluation import scoring
from tests.runner.helpers import Command, photo, refused

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def files(tmp_path: Path, tiny_weights: Path, monkeypatch) -> list[Path]:
    (tmp_path / "measured").mkdir()
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")  # nothing is committed there
    for name, side in (("a", 20), ("b", 24)):
        photo(tmp_path / "data" / "Two" / f"{name}.png", side)
    other = models.build("mambairv2-tiny")
    models.initialise(other, 1)
    torch.save({"params": other.state_dict()}, tmp_path / "other.pth")
    return [tiny_weights, tmp_path / "other.pth"]


def test_files_are_scored_once_and_compared(command: Command, files, tmp_path: Path, monkeypatch) -> None:
    where = ["--results", tmp_path / "store", "--data", tmp_path / "data", "--device", "cpu"]
    named, target = [f"mambairv2-tiny {file}" for file in files], tmp_path / "compared.json"
    asked = ["--sets", "Two", "--task", "sr-x2", "--json", target]
    refused(command("compare", *files, *asked, *where), "no scores yet on Two", "name its network")
    status, out, _ = command("compare", *named, *asked, *where)
    assert status == 0
    made = json.loads(target.read_text())
    digests = [models.weights_hash(file) for file in files]
    assert [made[side]["weights"] for side in "ab"] == digests
    row, images = made["rows"][0], made["images"]
    assert row["images"] == 2 and row["difference"] == pytest.approx(sum(one["difference"] for one in images) / 2)
    assert row["low"] < row["difference"] < row["high"]
    assert out.strip().splitlines()[-1] == made["sentence"] and f"(weights {digests[0][:8]}) against" in out
    status, out, _ = command("compare", *named, *asked, "--crops", "crops", *where)
    assert status == 0 and out.count("written: ") == 2 and out.strip().splitlines()[-1] == made["sentence"]
    shown = np.asarray(Image.open(tmp_path / "crops" / f"Two-{images[0]['image']}.png"))
    side = {"a": 20, "b": 24}[images[0]["image"]]
    factor = 240 // side
    truth = np.asarray(Image.open(tmp_path / "data" / "Two" / f"{images[0]['image']}.png"))
    assert shown.shape == (22 + side * factor, 4 * side * factor + 3 * 8, 3)
    assert np.array_equal(shown[22:, -side * factor :][::factor, ::factor], truth)  # the last of the four
    left, right = (shown[22:, (side * factor + 8) * i :][:, : side * factor].astype(int) for i in (1, 2))
    assert np.abs(left - right).max() > 0
    refused(command("compare", *digests, *asked, "--crops", "crops", *where), "'MODEL FILE'")
    monkeypatch.setattr(scoring, "score", None)  # nothing is scored again
    assert command("compare", *files, *where)[:2] == command("compare", *(d[:8] for d in digests), *where)[:2]


def test_mistakes_are_one_line(command: Command, tmp_path: Path) -> None:
    refused(command("compare", "none.pth", "other", "--results", tmp_path / "store"), "'none.pth' is no file")
