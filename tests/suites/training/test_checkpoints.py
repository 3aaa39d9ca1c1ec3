"""Checkpoints under damage, a full disk and interrupted renames: nothing is lost, nothing is silent."""

import errno
import json
import os

import pytest
import torch

from results.records import StoreError
from suites.training import checkpoints


def state(step: int) -> dict:
    return {"step": step, "weights": torch.arange(1000.0) + step, "loss": float("inf"), "losses": [0.5, 0.25]}


def test_round_trip(tmp_path):
    assert checkpoints.load(tmp_path) is None
    checkpoints.save(tmp_path, state(1))
    checkpoints.save(tmp_path, state(2))
    checkpoints.save(tmp_path, state(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]
    loaded = checkpoints.load(tmp_path)
    assert loaded["step"] == 3 and loaded["loss"] == float("inf") and loaded["losses"] == [0.5, 0.25]
    assert torch.equal(loaded["weights"], state(3)["weights"])
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3  # an ordinary file to PyTorch
    assert torch.load(tmp_path / "checkpoint.previous.pt", weights_only=True)["step"] == 2


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "text"])
def test_damaged_checkpoint_is_kept_aside_and_the_previous_one_is_used(tmp_path, damage):
    checkpoints.save(tmp_path, state(1))
    checkpoints.save(tmp_path, state(2))
    path = tmp_path / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    if damage == "one bit":
        content[len(content) // 2] ^= 1  # in the weights: a zip reader would not notice
    damaged = {"truncated": bytes(content[:-100]), "one bit": bytes(content), "empty": b"", "text": b"hello"}[damage]
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is damaged .* kept as checkpoint\.pt\.corrupt"):
        assert checkpoints.load(tmp_path)["step"] == 1
    assert (tmp_path / "checkpoint.pt.corrupt").read_bytes() == damaged
    assert not path.exists()

    (tmp_path / "checkpoint.previous.pt").write_bytes(b"gone too")
    checkpoints.save(tmp_path, state(2))
    path.write_bytes(b"second time")
    with pytest.warns(UserWarning, match="damaged") as warned:
        assert checkpoints.load(tmp_path) is None
    assert len(warned) == 2
    assert (tmp_path / "checkpoint.pt.corrupt").read_bytes() == damaged  # not overwritten
    assert (tmp_path / "checkpoint.pt.corrupt.2").read_bytes() == b"second time"


def test_full_disk_leaves_both_checkpoints(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, state(1))
    checkpoints.save(tmp_path, state(2))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="no space is left") as caught:
            checkpoints.save(tmp_path, state(3))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]
    assert checkpoints.load(tmp_path)["step"] == 2


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_killed_at_any_rename(tmp_path, monkeypatch, kill_at):
    """The process dies before its n-th rename: a whole checkpoint of step 1 or 2 is there, and no damage reported."""
    checkpoints.save(tmp_path, state(1))
    renames = []

    class Killed(BaseException):
        pass

    def replace(source, target, original=os.replace):
        renames.append(target)
        if len(renames) == kill_at:
            raise Killed
        original(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            checkpoints.save(tmp_path, state(2))
    loaded = checkpoints.load(tmp_path)
    assert loaded["step"] == 1 and torch.equal(loaded["weights"], state(1)["weights"])
    checkpoints.save(tmp_path, state(2))
    assert checkpoints.load(tmp_path)["step"] == 2
    assert not [path.name for path in tmp_path.iterdir() if path.suffix != ".pt" or "next" in path.name]


def test_log_is_cut_to_the_checkpoint(tmp_path):
    log = tmp_path / "train.jsonl"
    checkpoints.cut_log(log, 5)
    assert not log.exists()
    lines = [json.dumps({"step": step}) + "\n" for step in (2, 4, 6, 8)]
    log.write_text("".join(lines) + '{"step": 1')
    checkpoints.cut_log(log, 10)
    assert log.read_text() == "".join(lines)
    checkpoints.cut_log(log, 5)
    assert log.read_text() == "".join(lines[:2])
    checkpoints.cut_log(log, 0)
    assert log.read_text() == ""


def test_discard_keeps_what_was_damaged(tmp_path):
    checkpoints.save(tmp_path, state(1))
    checkpoints.save(tmp_path, state(2))
    (tmp_path / "checkpoint.pt.corrupt").write_bytes(b"damaged")
    checkpoints.discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt.corrupt"]
