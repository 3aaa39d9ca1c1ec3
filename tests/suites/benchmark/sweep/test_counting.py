"""Counts that are filed outlive a command that cannot make them, and say who made them."""

import pytest

from results import measured, records
from suites.benchmark.sweep import counting
from suites.benchmark.sweep.points import Point

SIZES = {"sr-x2": ((64, 64), (360, 640)), "sr-x4": ((256, 256),)}


@pytest.fixture
def count(tmp_path, monkeypatch):
    """count(commit, params, without) counts two networks, of which `without` cannot be built, and returns the file and
    what was asked for."""
    monkeypatch.setattr(measured, "NETWORKS", tmp_path / "networks.json")
    monkeypatch.setattr(counting, "PEERS", {"peer": None})
    monkeypatch.setattr(counting.points, "of_preset", lambda *_: [Point("own", 64, 64, "fp32", "triton")])

    def run(commit: str, params: int, without: str = "", stop: int = 100) -> tuple[dict, list[str], list[str]]:
        asked, said = [], []

        def of_subject(subject, task, sizes):
            if len(asked) == stop:
                raise KeyboardInterrupt
            asked.append(f"{subject} {task.name}")
            found = {"reason": "cannot be imported"} if subject == without else {"params": params, "macs": 10**9}
            return [found] * len(sizes)

        monkeypatch.setattr(counting, "of_subject", of_subject)
        monkeypatch.setattr(counting.environment, "describe", lambda *_: {"commit": commit, "versions": {}})
        try:
            counting.count(None, said.extend)
        except KeyboardInterrupt:
            said.append("stopped")
        return records.read_json(measured.NETWORKS), asked, said

    return run


def told(file: dict) -> dict:
    """(count or reason, commit) by network, task and height."""
    rows = {(row["subject"], row["task"], row["height"]): row for row in file["rows"]}
    commits = {label: made["commit"] for label, made in file["environments"].items()}
    return {key: (row.get("params", row.get("reason")), commits[row["environment"]]) for key, row in rows.items()}


def test_what_cannot_be_counted_here_stays_as_it_was_counted(count):
    file, asked, _ = count("a", 1)
    assert asked == ["peer sr-x2", "own sr-x2", "peer sr-x4", "own sr-x4"] and len(file["rows"]) == 6
    assert "finished" in file["environments"]["1"] and count("a", 2)[:2] == (file, [])
    later, _, said = count("b", 2, without="peer")
    assert {key: value for key, value in told(later).items() if key[0] == "own"} == {
        ("own", "sr-x2", 64): (2, "b"),
        ("own", "sr-x2", 360): (2, "b"),
        ("own", "sr-x4", 256): (2, "b"),
    }
    assert told(later)["peer", "sr-x2", 360] == (1, "a") and "kept as counted by commit a" in said[0]
    last, _, _ = count("c", 3)
    assert set(told(last).values()) == {(3, "c")} and len(last["environments"]) == 1


def test_a_command_that_is_stopped_loses_no_row_and_has_not_finished(count):
    count("a", 1)
    file, _, said = count("b", 2, stop=1)
    assert said[-1] == "stopped" and len(file["rows"]) == 6
    assert told(file)["peer", "sr-x2", 64] == (2, "b") and told(file)["own", "sr-x2", 64] == (1, "a")
    assert {made["commit"]: "finished" in made for made in file["environments"].values()} == {"a": True, "b": False}
    file, asked, _ = count("b", 2)
    assert asked == ["own sr-x2", "peer sr-x4", "own sr-x4"] and set(told(file).values()) == {(2, "b")}


def test_a_reason_gives_way_to_a_count(count):
    file, _, _ = count("a", 1, without="peer")
    assert told(file)["peer", "sr-x2", 64] == ("cannot be imported", "a")
    assert told(count("b", 2)[0])["peer", "sr-x2", 64] == (2, "b")


def test_committed_counts_are_complete():
    rows = records.read_json(measured.NETWORKS)["rows"]
    found = {(row["subject"], row["task"]) for row in rows if "params" in row}
    assert {(peer, task) for peer in counting.PEERS for task in SIZES} <= found
    assert {row["params"] for row in rows if (row["subject"], row["task"]) == ("dat", "sr-x4")} == {14_802_051}
