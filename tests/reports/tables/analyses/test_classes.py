"""Summaries of what classes and prompts are, and their correlation with scores, of values that are known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.tables.analyses import classes, prompt_quality
from results.analyses import folder
from results.evidence import Evidence


def prompts_rows(values: dict[str, float], used: dict[str, str] | None = None) -> pd.DataFrame:
    """Rows of two layers and both routings by image, every quality `values[image]`."""
    names = [*prompt_quality.QUALITIES, *classes.OF_PROMPTS, "effective", "between"]
    rows = [
        {"image": image, "seed": 0, "layer": layer, "routing": routing, "used": (used or {}).get(image, "x1")}
        | dict.fromkeys(names, value + layer)
        for image, value in values.items()
        for layer in (0, 1)
        for routing in ("gumbel", "argmax")
    ]
    return pd.DataFrame(rows)


def test_summaries_are_means_over_images_with_their_interval(make):
    values = {"a": 1.0, "b": 2.0, "c": 6.0}
    found = pd.DataFrame(classes.SUMMARIES["prompts"]([make.analysis("prompts", prompts_rows(values))]))
    row = found[(found["routing"] == "gumbel") & (found["quantity"] == "ratio")].iloc[0]
    half = stats.t.ppf(0.975, 2) * np.std([1.5, 2.5, 6.5], ddof=1) / 3**0.5
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((3.5, 3.5 - half, 3.5 + half))
    assert (row["images"], row["lowest layer"], row["highest layer"]) == (3, 3.0, 4.0)


def test_a_class_is_dead_on_a_set_when_no_image_has_it(make):
    rows = prompts_rows({"a": 0.0, "b": 0.0}, {"a": "x3", "b": "x6"}).assign(dead=6)  # of 8: bits 0, 1 and 1, 2
    found = pd.DataFrame(classes.SUMMARIES["prompts"]([make.analysis("prompts", rows)]))
    assert set(found[found["quantity"] == "dead on the whole set"]["mean"]) == {5.0}


def test_correlations_are_pearsons_and_too_few_cells_say_so():
    x, y = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    found = prompt_quality.correlation(pd.Series(x), pd.Series(y))
    assert found["measured"] == pytest.approx(0.8)
    z, half = np.arctanh(0.8), stats.norm.ppf(0.975) / (5 - 3) ** 0.5
    assert (found["low"], found["high"]) == pytest.approx((np.tanh(z - half), np.tanh(z + half)))
    t = 0.8 * np.sqrt((5 - 2) / (1 - 0.8**2))
    assert found["p"] == pytest.approx(2 * stats.t.sf(t, 3)) and "verdict" not in found
    few = prompt_quality.correlation(pd.Series(x[:3]), pd.Series(y[:3]))
    assert few == {"verdict": "not run: 3 cells, of 4 that an interval needs"}
    assert "no spread" in prompt_quality.correlation(pd.Series([1.0] * 5), pd.Series(y))["verdict"]


def test_qualities_are_joined_with_the_scores_of_the_same_weights(store, make):
    assert not prompt_quality.known(Evidence(store))
    for seed in range(5):
        cell = make.cell("base", seed)
        make.train(store, cell, 30 + seed, weights=f"weights {seed}")
        key = make.analysis_key("prompts", weights=f"weights {seed}")
        rows = prompts_rows({"one": float(seed)}).assign(pixels="0")
        columns = dict.fromkeys(rows.columns.drop(["image", "pixels", "seed"]), "")
        folder.add(store.root, key, rows, {"device": "x"}, expected=1, question="?", columns=columns)
    found = pd.DataFrame(prompt_quality.rows(Evidence(store)))
    assert set(found["metric"]) == set(prompt_quality.QUALITIES)
    assert found["measured"].to_numpy() == pytest.approx(1.0) and (found["verdict"] == "better with more").all()
    assert found["evidence"].str.startswith("5 cells, prompts on Set5; ").all()
