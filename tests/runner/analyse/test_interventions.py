"""`analyse interventions` of a tiny network, called as a user would."""

import json
from pathlib import Path

import pytest
import torch

import models
from results.store import Store
from suites.analysis import interventions
from tests.runner.helpers import Command, photo, refused

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def where(tmp_path: Path) -> list:
    for name, side in (("a", 20), ("b", 24)):
        photo(tmp_path / "data" / "Two" / f"{name}.png", side)
    torch.save({"params": models.build("mambairv2-tiny").state_dict()}, tmp_path / "tiny.pth")
    asked = ["analyse", "interventions", "mambairv2-tiny", "--task", "sr-x2", "--sets", "Two"]
    return [*asked, "--weights", tmp_path / "tiny.pth", "--data", tmp_path / "data", "--results", tmp_path / "store"]


def test_changes_are_told_stored_and_written_as_json(command: Command, where, tmp_path):
    target = tmp_path / "changes.json"
    status, out, _ = command(*where, "--only", "parts/*,routing/argmax", "--seeds", "0,1", "--json", target)
    assert status == 0 and "parts/assm-off" in out and "16 measurements made now, 0 stored before" in out
    made = json.loads(target.read_text())
    assert made["rows"][0]["intervention"] == "unchanged"
    by_name = {row["intervention"]: row for row in made["rows"]}
    off = by_name["parts/attention-off"]
    assert off["low"] < off["difference"] < off["high"] and off["images"] == 2 and off["seeds"] == [0, 1]
    assert by_name["routing/argmax"]["seeds"] == [] and made["environment"]["device"]
    alone = [row["psnr"] for row in made["images"] if row["intervention"] == "parts/shift-off"]
    assert by_name["parts/shift-off"]["psnr"] == pytest.approx(sum(alone) / 4)
    status, out, _ = command(*where, "--only", "parts/*", "--seeds", "0,1,2")
    assert status == 0 and "6 measurements made now, 14 stored before" in out
    status, out, _ = command("tables", "interventions", "--results", tmp_path / "store")
    assert status == 0 and "parts/assm-off" in out and "tiny.pth" in out


def test_the_unchanged_network_scores_as_evaluate_does(command: Command, where, tmp_path):
    target = tmp_path / "changes.json"
    assert command(*where, "--only", "parts/assm-off", "--seeds", "3", "--json", target)[0] == 0
    score = ["evaluate", "mambairv2-tiny", "--seed", "3", *where[3:]]
    assert command(*score)[0] == 0
    expected = Store(tmp_path / "store").scores().set_index("image")["psnr"].to_dict()
    images = json.loads(target.read_text())["images"]
    assert {row["image"]: row["psnr"] for row in images if row["intervention"] == "unchanged"} == expected


def test_memory_that_is_not_there_is_said(command: Command, where, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(interventions, "_call", full)
    refused(command(*where, "--only", "parts/*"), "1 tiles of 10x10 pixels", "fewer --jobs")


def test_mistakes_are_one_line(command: Command, where, tmp_path):
    refused(command(*where, "--only", "nothing/*"), "nothing/*", "prompts/*")
    refused(command(*where, "--seeds", "a"), "--seeds a")
    refused(command(*where, "--jobs", "0"), "--jobs 0")
    refused(command(*where, "--interventions", tmp_path / "none.py"), "none.py")
