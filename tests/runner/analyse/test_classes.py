"""`analyse sgn` and `prompts` of a tiny network: what is printed, stored, drawn, and measured only once."""

import json
from pathlib import Path

import pytest

from results.analyses import folder
from tests.runner.helpers import refused

pytestmark = pytest.mark.usefixtures("one_thread")


def test_sequences_are_told_and_maps_are_drawn(analyse, command, tiny_weights, tmp_path):
    status, out, _ = analyse("sgn", "--weights", tiny_weights)
    assert status == 0 and "2 measurements made now" in out
    assert "sgn-classes: " in out and "sgn-order: " in out and "tiny x2; Set5; 1 image; " in out
    found = json.loads((tmp_path / "found.json").read_text())
    orders = {row["order"] for row in found["rows"] if row["analysis"] == "sgn-order"}
    assert {"network", "likeliest", "shuffled", "raster", "nearest"} <= orders and found["environment"]["commit"]
    _, again, _ = analyse("sgn", "--weights", tiny_weights)
    assert "0 measurements made now, 2 stored before" in again
    records = {one.key["analysis"]: one for one in map(folder.read, folder.folders(tmp_path / "store"))}
    assert records["sgn-classes"].arrays("baby")["seed-0"].shape == (2, 20, 20)
    assert command("figures", "sgn-classes", "--results", tmp_path / "store")[0] == 0
    assert Path("sgn-classes.png").stat().st_size > 10_000


def test_prompts_of_initial_values_have_not_grown(analyse, tmp_path):
    status, out, _ = analyse("prompts", "--untrained", "--seeds", "0,1")
    assert status == 0 and "2 measurements made now" in out and "prompts: " in out and "untrained x2; " in out
    found = json.loads((tmp_path / "found.json").read_text())
    growth = [row["growth"] for row in found["images"] if row["routing"] == "gumbel"]
    assert len(growth) == 4 and growth == pytest.approx([1.0] * 4, abs=0.35)
    refused(analyse("prompts"), "--weights", "--untrained")
    refused(analyse("prompts", "--untrained", "--human", tmp_path / "data"), "no .mat file")
