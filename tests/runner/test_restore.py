"""`runner.py restore`, called as a user would."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageCms

import models
from suites.evaluation import restoration
from suites.evaluation.restoration.outlook import Outlook
from suites.spec import Protocol, Task
from tests.runner.helpers import Command, files, photo, refused


def test_restore_own_pictures(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    source, target = tmp_path / "own", tmp_path / "restored"
    source.mkdir()
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)).save(source / "colour.png")
    Image.fromarray(rng.integers(0, 256, (7, 5), dtype=np.uint8)).save(source / "gray.png")
    (source / "broken.png").write_text("no picture")
    command_line = ["restore", source, target, "--model", "mambairv2-tiny", "--weights", tiny_weights]
    status, out, _ = command(*command_line)
    assert status == 1 and "failed: " in out and "broken.png" in out  # and the others are done all the same
    assert np.asarray(Image.open(target / "colour.png")).shape == (18, 26, 3)
    assert np.asarray(Image.open(target / "gray.png")).shape == (14, 10)
    refused(command("restore", source, source, "--model", "mambairv2-tiny", "--weights", tiny_weights), "replaced")


def test_restore_never_replaces_its_input_and_other_files_only_when_told(
    command: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    tiny = ["--model", "mambairv2-tiny", "--weights", tiny_weights]
    picture, link = photo(tmp_path / "photo.png"), tmp_path / "link.png"
    link.hardlink_to(picture)
    before = picture.read_bytes()
    for target in (picture, tmp_path / "x" / ".." / "photo.png", link, tmp_path):
        for more in ([], ["--overwrite"]):
            refused(command("restore", picture, target, *tiny, *more), "is the picture itself", "choose another OUTPUT")
    assert picture.read_bytes() == before
    other = photo(tmp_path / "other.png", side=5)
    refused(command("restore", picture, other, *tiny), "other.png exists already", "--overwrite")
    assert command("restore", picture, other, *tiny, "--overwrite")[0] == 0
    assert Image.open(other).size == (18, 18)


def test_restore_says_before_computing_that_it_cannot_write(
    command: Command, tmp_path: Path, tiny_weights: Path, monkeypatch
) -> None:
    tiny = ["--model", "mambairv2-tiny", "--weights", tiny_weights]
    picture = photo(tmp_path / "photo.png")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(restoration, "restore_picture", lambda *_, **__: pytest.fail("computed all the same"))
    refused(command("restore", picture, tmp_path / "file" / "out.png", *tiny), "is a file, not a folder")
    refused(command("restore", picture, tmp_path / "file" / "folder", *tiny), "is a file, not a folder")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    refused(command("restore", picture, tmp_path / "new" / "out.png", *tiny), "you may not write there")


def test_restore_says_how_it_takes_pictures_and_begins_none_that_does_not_fit(
    command: Command, tmp_path: Path, tiny_weights: Path, monkeypatch
) -> None:
    small, large = photo(tmp_path / "own" / "a.png", side=20), photo(tmp_path / "own" / "b.png", side=24)
    asked = ["restore", small.parent, tmp_path / "out", "--model", "mambairv2-tiny", "--weights", tiny_weights]
    monkeypatch.setattr(
        Outlook, "lacks", lambda self, size: "24x24 needs more: use tiles" if size == (24, 24) else None
    )
    status, out, _ = command(*asked, "--tiles", "16")
    assert status == 1 and f"failed: {large}: 24x24 needs more: use tiles" in out
    assert out.startswith("20x20: 4 tiles (--tiles 16) that overlap by 10 %; precision fp32, scan ")
    assert list(files(tmp_path / "out")) == ["a.png"]


def test_a_full_disk_is_a_sentence(command: Command, tmp_path: Path, tiny_weights: Path, monkeypatch) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    picture = photo(tmp_path / "photo.png")
    monkeypatch.setattr(os, "replace", full)
    asked = ["restore", picture, tmp_path / "out.png", "--model", "mambairv2-tiny", "--weights", tiny_weights]
    result = command(*asked)
    refused(result, "no space is left there", "out.png")
    assert "Errno" not in result[2] and not (tmp_path / "out.png").exists()


def test_restore_walks_folders_and_keeps_what_is_there(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    source, target = tmp_path / "own", tmp_path / "own" / "restored"
    for name in ("a.png", "a.jpg", "b.png", "holiday/c.png", ".hidden/d.png"):
        photo(source / name)
    asked = ["restore", source, target, "--model", "mambairv2-tiny", "--weights", tiny_weights]
    status, out, _ = command(*asked)
    assert status == 1 and "a.jpg and a.png would both become" in out  # and costs no other picture
    assert sorted(files(target)) == ["b.png", "holiday/c.png"]
    (source / "a.jpg").unlink()
    first = files(target)
    status, out, _ = command(*asked)  # goes on with what is not there yet
    assert status == 0 and out.count("kept: ") == 2 and sorted(files(target)) == ["a.png", *sorted(first)]
    photo(source / "b.png", side=11)
    assert command(*asked, "--overwrite")[0] == 0 and Image.open(target / "b.png").size == (22, 22)


def test_restore_keeps_the_colour_profile(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in ("with.png", "with.jpg"):
        source = photo(tmp_path / name, icc_profile=profile)
        asked = ["restore", source, tmp_path / "out.png", "--model", "mambairv2-tiny", "--weights", tiny_weights]
        assert command(*asked, "--overwrite")[0] == 0
        assert Image.open(tmp_path / "out.png").info["icc_profile"] == profile


def test_restore_takes_routing_samples_seed_and_an_option_file(
    command: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    picture = photo(tmp_path / "photo.png", side=24)

    def restored(*more: str | Path) -> bytes:
        asked = ["restore", picture, tmp_path / "out.png", "--weights", tiny_weights, "--overwrite", *more]
        assert command(*asked)[0] == 0
        return (tmp_path / "out.png").read_bytes()

    tiny = ["--model", "mambairv2-tiny"]
    official = restored(*tiny)
    for other in (["--routing", "argmax"], ["--seed", "1"], ["--samples", "2"]):
        assert restored(*tiny, *other) != official
    block = models.build("mambairv2-tiny").configuration
    (tmp_path / "own.yml").write_text(yaml.safe_dump({"network_g": json.loads(json.dumps(block))}))
    assert restored("--network", tmp_path / "own.yml") == official
    refused(command("restore", picture, tmp_path / "new.png", "--weights", tiny_weights), "--model", "--network")


def test_restore_shows_progress_within_a_picture(tmp_path: Path, tiny_weights: Path) -> None:
    told, spent, task = [], [], Task.parse("sr-x2")
    protocol = Protocol.official(task, tiling=16, samples=2)
    source, target = photo(tmp_path / "photo.png", side=24), tmp_path / "out.png"
    asked = source, target, "mambairv2-tiny", task, tiny_weights, protocol
    restoration.restore(*asked, progress=lambda *each: told.append(each), spent=spent.append)
    assert told == [("photo.png", done, 8) for done in range(9)]  # 4 tiles, twice
    (row,) = spent
    assert (row["tiles"], row["tile"], row["overlap"], row["restored"]) == (4, [13, 13], 10, [48, 48])
    assert row["seconds"] > 0 and row["host_mib"] > 50 and row["device_mib"] is None


def test_restore_files_what_it_cost(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    source = photo(tmp_path / "own" / "a.png")
    asked = ["restore", source.parent, tmp_path / "out", "--model", "mambairv2-tiny", "--weights", tiny_weights]
    photo(tmp_path / "own" / "b.png")
    assert command(*asked, "--json", tmp_path / "cost.json")[0] == 0
    told = json.loads((tmp_path / "cost.json").read_text())
    assert [(row["picture"], row["first"]) for row in told["rows"]] == [("a.png", True), ("b.png", False)]
    assert told["rows"][0]["tiling"] == "official"
    assert told["rows"][0]["weights"] == models.weights_hash(tiny_weights)
    assert told["environment"]["commit"] and told["environment"]["command"].split()[1] == "restore"
    assert told["environment"]["backend"] == told["rows"][0]["backend"] != "auto"
    status, _, said = command(*asked, "--json", tmp_path / "again.json")  # all is there: nothing is restored
    assert status == 0 and "again.json is not written" in said and not (tmp_path / "again.json").exists()


def test_a_record_that_cannot_be_written_is_told_first_and_what_was_restored_is_filed(
    command: Command, tmp_path: Path, tiny_weights: Path, monkeypatch
) -> None:
    for name in "ab":
        photo(tmp_path / "own" / f"{name}.png")
    asked = ["restore", tmp_path / "own", tmp_path / "out", "--model", "mambairv2-tiny", "--weights", tiny_weights]
    refused(command(*asked, "--json", tmp_path / "own" / "a.png" / "cost.json"), "is a file, not a folder", "--json")
    refused(command(*asked, "--json", tmp_path), "is a folder", "--json")
    assert not (tmp_path / "out").exists()
    save = restoration.save_picture

    def full(output, path, profile):
        if path.name == "b.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(output, path, profile)

    monkeypatch.setattr(restoration, "save_picture", full)
    refused(command(*asked, "--json", tmp_path / "cost.json"), "no space is left there")
    assert [row["picture"] for row in json.loads((tmp_path / "cost.json").read_text())["rows"]] == ["a.png"]


def test_what_pictures_cost_is_looked_at_only_when_asked_for(
    command: Command, tmp_path: Path, tiny_weights: Path, monkeypatch
) -> None:
    monkeypatch.setattr(restoration, "Cost", lambda *_: pytest.fail("measured although nobody asked"))
    asked = ["restore", photo(tmp_path / "a.png"), tmp_path / "out.png", "--model", "mambairv2-tiny"]
    assert command(*asked, "--weights", tiny_weights)[0] == 0
