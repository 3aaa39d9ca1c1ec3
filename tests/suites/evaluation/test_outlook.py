"""What `restore` says before it starts, and what it does not start: by measurements made up here, of which the lines
are known."""

import json

import pytest
import torch

from results import measured
from results.costs import whole
from suites.evaluation.restoration import outlook
from suites.evaluation.restoration.outlook import Outlook
from suites.spec import Protocol, Task

SR = Task("sr", 2)
ENVIRONMENT = {
    "device": "a card",
    "device_type": "cuda",
    "command": "c",
    "commit": "a",
    "started": "2026",
    "versions": {"torch": "2"},
}
GIB = 2**30


def point(side: int, mib: float, **other) -> dict:
    row = {
        "subject": "net",
        "task": "sr-x2",
        "precision": "tf32x3",
        "backend": "triton",
        "mode": "inference",
        "batch": 1,
    }
    return row | {"status": "ok", "height": side, "width": side, "peak_mib": mib, "median_ms": 1.0} | other


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A card of 24 GiB, of which 3 are free and 1 more is kept unused; 200 and 400 MiB were measured, and a line
    through them takes 200 MiB for every 100,000 pixels."""
    folder = tmp_path / "card"
    folder.mkdir()
    rows = [point(500, 400.0), point(500, 450.0), point(1000, 1900.0)]
    rows += [point(1000, 9.0, **odd) for odd in ({"batch": 8}, {"backend": "mamba_ssm"}, {"task": "sr-x4"})]
    rows += [point(0, 0.0, height=2160, width=3840, peak_mib=None, median_ms=ms) for ms in (900.0, 500.0)]
    rows += [point(9, 9.0, pictures="Urban100"), point(9, None), {**point(9, 9.0), "status": "timeout"}]
    sweep = {"machine": ENVIRONMENT, "runs": [ENVIRONMENT], "rates": [], "rows": rows}
    (folder / "a.costs.json").write_text(json.dumps({"sweeps": [sweep]}))
    restored = {"model": "net", "task": "sr-x2", "precision": "tf32x3", "tiling": "official", "backend": "triton"}
    restored |= {"height": 2160, "width": 3840, "device_used_mib": 1024.0, "seconds": 8.0}
    rows = [restored, restored | {"tiling": "none", "device_used_mib": 9e9}, restored | {"seconds": 6.0}]
    record = {"rows": rows, "environment": ENVIRONMENT}
    (folder / "restore-a.json").write_text(json.dumps(record))
    change = {"model": "net", "task": "sr-x2", "weights": "0123", "dataset": "Urban100", "pictures": 100}
    change |= {"psnr": -0.07, "low": -0.3, "high": -0.01}
    (tmp_path / "tiling.json").write_text(json.dumps({"rows": [change, change | {"task": "sr-x4", "psnr": 9.0}]}))
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    monkeypatch.setattr(whole, "TILING", tmp_path / "tiling.json")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another card")


def look(tiling="none", model="net", precision="tf32x3", backend="triton") -> Outlook:
    return Outlook(model, SR, Protocol.official(SR, tiling=tiling, precision=precision), torch.device("cuda"), backend)


def test_memory_is_on_the_line_through_what_was_measured(card):
    calls = whole.calls("net", "sr-x2", "tf32x3")
    assert [(one.height, one.mib) for one in calls] == [(500, 400.0), (1000, 1900.0)]
    for pixels, mib in ((10_000, 400), (250_000, 400), (500_000, 900), (1_000_000, 1900), (2_000_000, 3900)):
        assert whole.needed(calls, pixels) == pytest.approx(mib)
    assert whole.needed([], 1) is None and whole.needed(calls[:1], 10**6) is None


def test_a_picture_that_does_not_fit_is_refused_with_what_is_needed_what_is_free_and_what_to_do(card):
    """4 GiB = 4,096 MiB, reached at 2.098 million pixels."""
    assert look().lacks((1000, 2097)) is None
    reason = look().lacks((1000, 2099))
    for words in ("1000x2099", "about 4.0 GiB", "up to 1000x1000 on a card", "4.0 GiB of 24.0 GiB are free on cuda"):
        assert words in reason
    assert "leave out --tiles" in reason and "1.0 GiB were in use at 2160x3840" in reason
    assert "in tf32x3 up to" in look(precision="fp32").lacks((2000, 2000))
    assert look("official").lacks((9000, 9000)) is None
    assert "smaller number" in look(3000).lacks((2900, 2900))
    for other in ({"model": None}, {"model": "other"}, {"backend": "chunked"}, {"precision": "bf16"}):
        assert look(**other).lacks((9000, 9000)) is None  # nothing was measured


def test_what_is_said_before_the_first_picture(card):
    how, memory, alternative = look("official").lines([(10, 10), (2160, 3840)])
    assert "the largest picture, 2160x3840: 220 official tiles that overlap by 10 %" in how
    assert "precision tf32x3, scan triton, cuda (another card)" in how
    assert "1.0 GiB in use, at any size (measured at 2160x3840 on a card); 4.0 GiB of 24.0 GiB are free" in memory
    assert "--tiles none: tiles took 6 s with joining, one call 0.5 s of the GPU (at 2160x3840 on" in alternative
    assert "about 16.1 GiB" in alternative
    assert "Urban100 -0.070 [-0.300, -0.010] dB (95 %, weights 0123)" in alternative
    _, memory, alternative = look().lines([(600, 600)])
    assert "about 620 MiB" in memory and "without --tiles: tiles took 6 s" in alternative
    how, memory = look("official", model=None).lines([(100, 100)])
    assert how.startswith("100x100: whole, in one call") and outlook.UNKNOWN in memory
    assert look().lines([]) == []
