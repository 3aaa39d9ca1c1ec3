"""What is filed is not scored again; what is printed says which scores are new, and where the others come from."""

import json

import numpy as np
import pytest
from PIL import Image

from results import records
from results.agreement import limits
from results.store import Store
from suites.data import DataError, find
from suites.evaluation import filing
from suites.evaluation.filing import cell_target, score_set
from suites.evaluation.scoring import score
from suites.spec import Protocol, Task, protocol_for

TASK = Task("sr", 2)
OFFICIAL = Protocol.baseline(TASK)


@pytest.fixture
def root(tmp_path):
    add(tmp_path / "data", "baby", "bird", "head")
    return tmp_path / "data"


def add(root, *stems, side: int = 32):
    (root / "Set5").mkdir(parents=True, exist_ok=True)
    for stem in stems:
        pixels = np.random.default_rng(len(stem) + ord(stem[1]) + side).integers(
            0, 256, (side, side, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(root / "Set5" / f"{stem}.png")


def bicubic(root, store, **options):
    return score("bicubic", TASK, ["Set5"], protocol_for("bicubic", TASK), data=root, store=store, **options)


@pytest.fixture
def counted(monkeypatch):
    """Stems in the order in which they were really scored."""
    seen = []

    def watch(*arguments, original=filing.score_images, **options):
        for row in original(*arguments, **options):
            seen.append(row["image"])
            yield row

    monkeypatch.setattr(filing, "score_images", watch)
    return seen


def test_what_is_stored_is_not_scored_again_unless_asked_for(root, tmp_path, counted):
    store = Store(tmp_path / "store")
    first = bicubic(root, store)
    assert counted == ["baby", "bird", "head"] and [row["new"] for row in first.rows] == [3]
    counted.clear()
    second = bicubic(root, store)
    assert counted == [] and (second.rows[0]["new"], second.rows[0]["stored"]) == (0, 3)
    assert second.images["psnr"].tolist() == first.images["psnr"].tolist() and second.images["image"].tolist() == [
        *("baby", "bird", "head")
    ]
    assert bicubic(root, store, again=True).rows[0]["new"] == 3 and len(counted) == 3
    assert bicubic(root, None).rows[0]["new"] == 3  # without a store nothing is known


def test_scores_that_another_commit_gave_otherwise_are_kept_and_said(root, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    first = bicubic(root, store)
    (folder,) = store.evaluation_folders()
    rows = records.read_frame(folder / "scores.parquet")
    records.write_frame(folder / "scores.parquet", rows.assign(psnr=rows["psnr"] + [0.04, 0, 0], environment="before"))
    (stored,) = records.read_json(folder / "environment.json").values()
    records.write_json(folder / "environment.json", {"before": {**stored, "commit": "old"}})
    protocol = OFFICIAL.to_dict()
    asked = [protocol["precision"], protocol["routing"], (limits.kind(first.environment),) * 2, ("this",) * 2]
    found = limits.Measured(*asked, 100, 0, 0.01, 0.02, 0.025, 100, 0.0, ("bicubic",), ("sr-x2",), ("Set5",))
    monkeypatch.setattr(limits, "measured", lambda: (found,))
    again = bicubic(root, store, again=True)
    assert not again.refused and again.notes[1].startswith(
        "Set5: 1 of 3 pictures that were scored again are up to 0.04 dB"
    )
    assert store.other_machines()["image"].tolist() == ["baby"]
    assert store.scores()["psnr"].tolist() == pytest.approx((rows["psnr"] + [0.04, 0, 0]).tolist())  # what was first
    monkeypatch.setattr(limits, "measured", lambda: ())
    assert "contradicts what is stored: Set5/baby has psnr" in bicubic(root, store, again=True).refused[0]


def test_ctrl_c_keeps_what_was_scored_and_the_same_call_goes_on(root, tmp_path, monkeypatch, counted):
    store, watch = Store(tmp_path / "store"), filing.score_images

    def interrupted(*arguments, **options):
        for number, row in enumerate(watch(*arguments, **options)):
            yield row
            if number == 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(filing, "score_images", interrupted)
        found = bicubic(root, store)
    assert isinstance(found.stopped, KeyboardInterrupt) and found.rows[0]["new"] == 2
    counted.clear()
    assert bicubic(root, store).rows[0]["images"] == 3 and counted == ["head"]


def test_it_says_what_is_new_what_is_stored_and_on_what_machine(root, tmp_path):
    store = Store(tmp_path / "store")
    add(root, "butterfly", "woman")
    whole = bicubic(root, store).lines()
    assert "all 5 images" in whole[0] and "stored" not in "".join(whole)

    environment = next((tmp_path / "store").glob("evaluations/*/environment.json"))
    text = json.loads(environment.read_text())
    label = next(iter(text))
    text[label] |= {"device": "another machine"}
    environment.write_text(json.dumps(text))
    small = tmp_path / "small"
    add(small, "baby", "bird")
    lines = bicubic(small, store).lines()
    assert "all 5 images: 0 scored now, 5 stored before" in lines[0]
    assert [line.split()[0] for line in lines[1:3]] == ["baby", "bird"]  # what was asked for
    assert any("5 images measured" in line and "another machine" in line for line in lines)
    assert not any(line.startswith("measured on") for line in lines)  # nothing was

    lines = bicubic(root, store, images="head").lines()
    assert lines[1].split()[0] == "head" and "dB" in lines[1]


def test_other_pixels_are_scored_and_the_contradiction_is_told(root, tmp_path, counted):
    store = Store(tmp_path / "store")
    bicubic(root, store)
    counted.clear()
    add(root, "bird", side=36)
    found = bicubic(root, store)
    assert counted == ["bird"] and "bird is another picture" in found.refused[0]


def test_saved_pictures_are_made_although_their_scores_are_stored(root, tmp_path, counted):
    store = Store(tmp_path / "store")
    bicubic(root, store)
    bicubic(root, store, save=tmp_path / "saved")
    assert len(list((tmp_path / "saved" / "Set5").glob("*.png"))) == 3 and len(counted) == 6


def test_a_cell_and_nowhere_are_targets_too(root, tmp_path, counted):
    store, folder = Store(tmp_path / "store"), tmp_path / "store" / ("0" * 16)
    dataset, told = find("Set5", root), []
    rows = score_set("bicubic", TASK, dataset, OFFICIAL, cell_target(store, folder)).checked()
    assert len(rows) == 3 == len(records.read_frame(folder / "scores.parquet"))
    add(root, "woman")
    options = {"progress": lambda *values: told.append(values)}
    found = score_set("bicubic", TASK, find("Set5", root), OFFICIAL, cell_target(store, folder), **options)
    assert found.new == {"woman"} and len(found.checked()) == 4 and told[-1] == (4, 4, "woman")
    (root / "Set5" / "head.png").write_text("no picture")
    with pytest.raises(DataError, match=r"head\.png"):
        score_set("bicubic", TASK, dataset, OFFICIAL).checked()
