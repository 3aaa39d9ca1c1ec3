"""`analyse lam`, `erf`, `decay` and `redundancy` of a tiny network: what is printed, stored and measured only once."""

import json

import pytest

from tests.runner.helpers import refused

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("name", "column"), [("decay", "share"), ("redundancy", "state")])
def test_what_was_measured_is_told_and_not_measured_again(analyse, name, column, tmp_path):
    status, out, _ = analyse(name, "--untrained", "--seeds", "0,1")
    assert status == 0 and "2 measurements made now" in out and "untrained x2" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert {row["seed"] for row in found["images"]} == {0, 1} and column in found["images"][0]
    assert found["environment"]["commit"] and found["rows"]
    _, again, _ = analyse(name, "--untrained", "--seeds", "0,1")
    assert "0 measurements made now, 2 stored before" in again
    assert again.splitlines()[:3] == out.splitlines()[:3]


def test_a_field_of_a_set_is_told(analyse, tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr("suites.analysis.erf.SIDE", 24)
    status, out, _ = analyse("erf", "--weights", tiny_weights)
    assert status == 0 and "tiny x2" in out
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert {row["procedure"] for row in rows} == {"replknet", "mambair"} and rows[0]["side"] >= 3


def test_maps_with_and_without_an_intervention(analyse, tmp_path, monkeypatch):
    monkeypatch.setattr("suites.analysis.lam.FOLD", 2)
    status, _, _ = analyse("lam", "--untrained", "--only", "prompts/zero")
    assert status == 0
    base, changed = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert (base["change made"], changed["change made"]) == ("unchanged", "prompts/zero")
    assert changed["change"] == pytest.approx(changed["DI"] - base["DI"])


def test_what_cannot_be_asked_is_said(analyse, tiny_weights):
    refused(analyse("decay"), "--weights", "--untrained")
    refused(analyse("decay", "--untrained", "--weights", tiny_weights), "--weights", "--untrained")
    refused(analyse("decay", "--untrained", "--only", "prompts/*"), "--only", "lam")
    refused(analyse("lam", "--untrained", "--only", "nothing"), "nothing", "prompts/*")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("--seeds", "0,x"), "--seeds 0,x"),
        (("--seeds", "1" * 19), "--seeds 111"),
        (("--jobs", "0"), "--jobs 0"),
        (("--tiles", "3"), "unknown tiling 3"),
        (("--json", "/"), "is a folder"),
        (("--json", "/dev/null/found.json"), "cannot be written"),
    ],
)
def test_mistakes_are_said_before_weights_are_loaded(analyse, monkeypatch, typed, words):
    monkeypatch.setattr("suites.analysis.spec.Subject.load", lambda *_: pytest.fail("weights were loaded"))
    refused(analyse("decay", "--untrained", *typed), words)
