"""Weights against weights: differences paired by image against numbers worked out by hand, verdicts, the sentence."""

import json

import numpy as np
import pytest

from reports.tables.compare import compare, find
from reports.tables.rows import TableError
from results.evidence import Evidence
from results.store import Store

OURS, BASE = "a" * 64, "b" * 64
NOISE = np.array([-2, -1, 0, 1, 2]) * 1e-3
HALF = 2.7764451 * np.sqrt(2.5e-6 / 5)  # t(0.975, 4) times the standard error of -2 ... 2 thousandths


@pytest.fixture
def both(store: Store, make) -> Store:
    """Two sets of weights; A is better on Set5, equal on Set14 and known on a part of BSD100."""
    for weights, change in ((OURS, 0.5 + NOISE), (BASE, 0.0)):
        make.evaluate(store, 38.0, weights=weights, change=change, file=f"{weights[0]}.pth")
    fine = np.tile([-1e-4, 1e-4], 7)
    for weights, change in ((OURS, fine), (BASE, 0.0)):
        make.evaluate(store, 34.0, weights=weights, dataset="Set14", images=14, of=14, change=change)
        make.evaluate(store, 32.0, weights=weights, dataset="BSD100", images=7, of=100)
    return store


def test_differences_are_paired_by_image(both):
    found = compare(Evidence(both), "aaaa", "b.pth")
    rows = {row["dataset"]: row for row in found.rows}
    assert list(rows) == ["Set5", "Set14", "BSD100"]
    first = rows["Set5"]
    assert (first["a"], first["b"], first["difference"]) == pytest.approx((38.5, 38.0, 0.5))
    assert (first["low"], first["high"]) == pytest.approx((0.5 - HALF, 0.5 + HALF), abs=1e-8)
    assert [row["verdict"] for row in found.rows[:2]] == ["better", "equivalent within 0.01 dB"]
    partial = rows["BSD100"]
    assert partial["verdict"] == "A has 7 of 100 images" and partial["difference"] is None
    most = found.images[0]
    assert (most["dataset"], most["image"]) == ("Set5", "image004")
    assert (most["a"], most["b"], most["difference"]) == pytest.approx((39.502, 39.0, 0.502))
    assert sum(image["dataset"] == "Set14" for image in found.images) == 14


def test_the_other_way_round_has_the_other_sign(both):
    found = compare(Evidence(both), "b.pth", "aaaa", sets=["Set5"])
    assert found.rows[0]["difference"] == pytest.approx(-0.5) and found.rows[0]["verdict"] == "worse"


def test_it_ends_with_one_sentence(both):
    found = compare(Evidence(both), "mambairv2-light aaaa", "mambairv2-light, weights bbbbbbbb", sets=["Set5", "Set14"])
    assert (
        found.lines()[-1]
        == found.sentence
        == (
            "mambairv2-light (weights aaaaaaaa) against mambairv2-light (weights bbbbbbbb), sr-x2: "
            "better on Set5 (+0.500 [+0.498, +0.502] dB); "
            "equivalent within 0.01 dB on Set14 (+0.000 [+0.000, +0.000] dB)."
        )
    )
    assert any("image004" in line for line in found.lines())
    made = json.loads(json.dumps(found.to_json()))
    assert made["a"]["weights"] == OURS and made["sentence"] == found.sentence and len(made["images"]) == 19


def test_seeds_that_both_have_are_averaged(store, make):
    for seed, shift in ((0, 0.2), (1, 0.4)):
        make.evaluate(store, 38.0 + seed, weights=OURS, change=shift + NOISE, seed=seed)
        make.evaluate(store, 38.0 + seed, weights=BASE, seed=seed)
    make.evaluate(store, 99.0, weights=BASE, seed=7)  # which A does not have
    row = compare(Evidence(store), "aaaa", "bbbb").rows[0]
    assert row["seeds"] == [0, 1] and row["difference"] == pytest.approx(0.3)
    assert row["high"] - row["low"] == pytest.approx(2 * HALF)


@pytest.mark.parametrize("turned", [False, True])
def test_a_network_without_noise_is_compared_with_the_mean_over_seeds(store, make, turned):
    bare = {"routing": None, "prompt_order": None}
    make.evaluate(store, 39.0, model="own", weights=OURS, change=NOISE, **bare)
    for seed in (1, 2):
        make.evaluate(store, 37.0 + seed, weights=BASE, seed=seed)  # 38 and 39
    row = compare(Evidence(store), *(("bbbb", "own") if turned else ("own", "bbbb"))).rows[0]
    assert row["difference"] == pytest.approx(-0.5 if turned else 0.5) and row["seeds"] == [1, 2]


def test_what_cannot_be_paired_is_said(store, make):
    make.evaluate(store, 38.0, weights=OURS, seed=0)
    make.evaluate(store, 38.0, weights=BASE, seed=1)
    found = compare(Evidence(store), "aaaa", "bbbb", sets=["Set5", "Set14"])
    assert [row["verdict"] for row in found.rows] == [
        "no seed of the noise in common",
        "A has 0 of 14 images",
    ]
    assert found.sentence.endswith(
        ": not known on Set5 (no seed of the noise in common), Set14 (A has 0 of 14 images)."
    )
    with pytest.raises(TableError, match="no common task"):
        make.evaluate(store, 38.0, weights="c" * 64, task="sr-x3")
        compare(Evidence(store), "aaaa", "cccc")
    with pytest.raises(TableError, match="no common protocol"):
        make.evaluate(store, 38.0, weights="d" * 64, tiling="none")
        compare(Evidence(store), "aaaa", "dddd")
    with pytest.raises(TableError, match="both mambairv2-light"):
        compare(Evidence(store), "aaaa", "aaaaaa")


def test_pictures_of_one_name_must_be_the_same(store, make, monkeypatch):
    make.evaluate(store, 38.0, weights=OURS)
    own = make.scores
    monkeypatch.setattr(make, "scores", lambda *args: own(*args).assign(pixels="0" * 64))
    make.evaluate(store, 38.0, weights=BASE)
    with pytest.raises(TableError, match="Set5/image000 is another picture"):
        compare(Evidence(store), "aaaa", "bbbb")


def test_the_only_common_protocol_stands_in_for_the_official_one(store, make):
    for weights in (OURS, BASE):
        make.evaluate(store, 38.0, weights=weights, routing="argmax")
    found = compare(Evidence(store), "aaaa", "bbbb")
    assert found.rows[0]["verdict"] == "equivalent within 0.01 dB" and "routing argmax" in found.lines()[0]
    for weights in (OURS, BASE):
        make.evaluate(store, 38.0, weights=weights, tiling="none")
    with pytest.raises(TableError, match="not by the official"):
        compare(Evidence(store), "aaaa", "bbbb")


def test_a_name_must_fit_one(both, make):
    assert find(Evidence(both), "a.pth").label == "mambairv2-light (weights aaaaaaaa)"
    with pytest.raises(TableError, match=r"fits several .*aaaaaaaa.*bbbbbbbb"):
        find(Evidence(both), "mambairv2-light")
    make.evaluate(both, 30.0, weights="c" * 64, task="sr-x4")
    assert find(Evidence(both), "mambairv2-light", "sr-x4").label == "mambairv2-light (weights cccccccc)"
    for name in ("dddd", "aaa", ""):
        with pytest.raises(TableError, match="no scored weights"):
            find(Evidence(both), name)
