"""`runner.py evaluate`, called as a user would."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from results.store import Store
from suites.evaluation import filing
from suites.evaluation.evaluate import COLUMNS
from tests.runner.helpers import Command, data_set, refused


def test_evaluate_prints_stores_and_writes_json(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    target = tmp_path / "scores.json"
    score = ["evaluate", "mambairv2-tiny", "--task", "sr-x2", "--sets", "Set5", "--weights", tiny_weights]
    data = data_set(tmp_path / "data")
    status, out, _ = command(*score, "--data", data, "--results", tmp_path / "store", "--json", target)
    assert status == 0
    assert "1 of 5 images" in out and "not those of the standard Set5 (baby)" in out
    assert "routing gumbel" in out and "backend" in out
    made = json.loads(target.read_text())
    row = made["rows"][0]
    assert row["psnr"] is None and row["images"] == 1  # a mean needs the whole set
    keys = "tiling routing samples seed prompt_order lr_route luma channels border precision"
    assert list(row["protocol"]) == keys.split()
    assert [image["image"] for image in made["images"]] == ["baby"] and 0 < made["images"][0]["psnr"] < 60
    assert made["environment"]["backend"] in ("cpu", "chunked", "triton")
    assert command(*score, "--data", data, "--results", tmp_path / "store")[0] == 0  # the same again is no conflict


def test_own_weights_stand_apart_in_tables_unless_they_are_said_to_be_published(
    command: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    data, store = data_set(tmp_path / "data"), tmp_path / "store"
    where = ["--data", data, "--results", store]
    score = ["evaluate", "mambairv2-tiny", "--task", "sr-x2", "--sets", "Set5", "--weights", tiny_weights, *where]
    assert command(*score)[0] == 0
    status, out, _ = command("tables", "table3", "--results", store)
    assert status == 0 and "### tiny.pth, mambairv2-tiny, sr-x2: weights " in out and "1 of 5 images" in out
    assert command(*score, "--as-official")[0] == 0  # nothing is scored again; the record says it
    assert list(Store(store).evaluations()["as_official"]) == [True]
    assert "tiny.pth" not in command("tables", "table3", "--results", store)[1]
    refused(command("evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--as-official", *where), "--as-offi")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_set_that_fails_half_way_keeps_what_was_scored(command: Command, tmp_path: Path, monkeypatch, number) -> None:
    data, store = data_set(tmp_path / "data"), tmp_path / "store"
    (data / "Set5" / "bird.png").write_text("not a picture")
    score = ["evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--data", data, "--results", store]
    status, out, err = command(*score)
    assert status == 2 and "bird.png" in err and "  baby " in out and "1 of 5 images" in out
    assert len(list(store.glob("evaluations/*/scores.parquet"))) == 1

    def interrupted(*_, **__):
        yield {**dict.fromkeys(COLUMNS, 1.0), "dataset": "Set5", "image": "baby", "pixels": "0"}
        os.kill(os.getpid(), number)
        time.sleep(10)  # never so long: the signal is answered first

    monkeypatch.setattr(filing, "score_images", interrupted)
    status, out, _ = command(*score[:-1], tmp_path / "other")
    assert status == 130 and "  baby " in out
    assert len(list(tmp_path.glob("other/evaluations/*/scores.parquet"))) == 1


def test_a_baseline_refuses_the_options_of_networks(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    data = data_set(tmp_path / "data")
    score = ["evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--data", data]
    for option, value in (("--tiles", "64"), ("--samples", "2"), ("--routing", "argmax"), ("--lr", "pil")):
        refused(command(*score, option, value), "protocol of its own")
    refused(command(*score, "--weights", tiny_weights), "--weights")
    refused(command(*score[:4], "--sets", ",", "--data", data), "--sets")


def test_identical_images_are_null_in_json(command: Command, tmp_path: Path) -> None:
    (tmp_path / "data" / "Set5").mkdir(parents=True)
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "data" / "Set5" / "bird.png")
    target = tmp_path / "flat.json"
    score = ["evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--data", tmp_path / "data", "--json", target]
    assert command(*score, "--results", tmp_path / "store")[0] == 0
    assert json.loads(target.read_text())["images"][0]["psnr"] is None
    assert "Infinity" not in target.read_text()
