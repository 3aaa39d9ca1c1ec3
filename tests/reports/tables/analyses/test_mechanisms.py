"""Sums of analyses: means and intervals of images by hand, changes paired by image."""

import json

import numpy as np
import pytest
from scipy.stats import t

from reports.tables.analyses import classes, fields, mechanisms, text
from suites.analysis import erf
from tests.reports.mechanisms import OFFICIAL


def test_indices_have_intervals_over_images_and_changes_are_paired(made):
    base = made.lam({"a": 10.0, "b": 14.0, "c": 12.0})
    changed = made.lam({"a": 9.0, "b": 12.0, "c": 12.0}, intervention="prompts/zero")
    first, second = mechanisms.summary("lam", [changed, base]).to_dict("records")
    assert (first["network"], first["change made"], first["DI"]) == ("official x4", "unchanged", 12)
    half = t.ppf(0.975, 2) * 2 / 3**0.5
    assert (first["DI low"], first["DI high"]) == pytest.approx((12 - half, 12 + half))
    assert np.isnan(first["change"]) and first["gap"] == 0.5 and first["reach90"] == 2
    assert second["change"] == -1 and second["change low"] == pytest.approx(-1 - t.ppf(0.975, 2) / 3**0.5)


def test_other_weights_are_named_by_their_file_and_none_by_their_absence(made):
    other = made.lam({"a": 1.0}, weights="f" * 64, file="mine.pth")
    assert mechanisms.network_name(other) == "mine x4"
    assert mechanisms.network_name(made.lam({"a": 1.0}, weights="f" * 64)) == "untrained x4"


def test_areas_are_means_of_images_that_have_one(made, tmp_path):
    rows = mechanisms.summary("erf", [made.erf(np.ones((8, 8)), tmp_path)]).to_dict("records")
    assert rows[0]["area of images"] == pytest.approx(0.1) and rows[0]["none"] == 0 and rows[0]["images"] == 2
    assert rows[1]["none"] == 2 and rows[1]["images"] == 0 and np.isnan(rows[1]["area of images"])


@pytest.mark.parametrize("procedure", ["replknet", "mambair"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_squares_of_a_mean_map_are_those_of_the_analysis(made, tmp_path, procedure, share):
    field = np.random.default_rng(0).random((20, 20)) ** 8
    found = fields.side_of(made.erf(field, tmp_path), procedure, share)
    expected = erf.square(erf.shown(field.astype(np.float32).astype(np.float64), procedure), share)
    assert found == pytest.approx(expected, nan_ok=True)


def test_decay_is_told_by_order_and_steps(made):
    frame = mechanisms.summary("decay", [made.decay()]).set_index(["order", "k"])
    assert frame.loc[("network", 4), "share"] == pytest.approx(0.9**4)
    assert frame.loc[("raster", 16), "of_output"] == pytest.approx(0.9**8 / 2)


def test_similarity_counts_layers_above_the_papers(made):
    frame = mechanisms.summary("redundancy", [made.redundancy()]).set_index("way")
    assert frame.loc["state", ["similarity", "lowest layer", "highest layer"]].to_list() == pytest.approx(
        [0.7, 0.6, 0.8]
    )
    assert frame.loc["state", "above 0.7"] == 1 and frame.loc["whole", "above 0.7"] == 2


def test_what_is_missing_is_null_in_json_and_blank_in_the_table(made, tmp_path):
    found = [made.erf(np.ones((8, 8)), tmp_path)]
    content = json.loads(json.dumps(mechanisms.to_json("erf", found), allow_nan=False))
    assert content["rows"][1]["area of images"] is None and len(content["images"]) == 4
    assert "nan" not in "\n".join(mechanisms.lines("erf", found))
    assert mechanisms.lines("erf", []) == []


def test_tables_fit_a_terminal_and_know_no_negative_zero(clone):
    found = [one for one in clone.copies if one.key["weights"] == OFFICIAL]
    names = {one.key["analysis"] for one in found} & {*mechanisms.SUMMARIES, *classes.SUMMARIES}
    assert names >= {"lam", "erf", "decay", "redundancy", "sgn-order", "prompts"}
    for name in names:
        own = [one for one in found if one.key["analysis"] == name]
        lines = mechanisms.lines(name, own) if name in mechanisms.SUMMARIES else classes.lines(own)
        assert lines and max(map(len, lines)) <= 100
    assert text.number(-0.0001, 3) == "0.000" and text.number(np.nan, 3) == "" and text.number(14, 3) == "14"
