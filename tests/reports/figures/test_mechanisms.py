"""Figures of analyses: what they draw, and that they draw it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reports.figures import attribution, decay, field, redundancy
from reports.tables.analyses import fields
from results.analyses.folder import typed


@pytest.mark.parametrize("module", [decay, redundancy], ids=lambda module: module.__name__.split(".")[-1])
def test_figures_of_rows(made, module, tmp_path):
    build = {decay: made.decay, redundancy: made.redundancy}[module]
    module.draw([build(), build(weights="f" * 64, file="other.pth")], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000


@pytest.mark.parametrize("module", [attribution, decay, field, redundancy])
def test_nothing_measured_is_said(module, tmp_path):
    with pytest.raises(ValueError, match=r"runner\.py analyse"):
        module.draw([], tmp_path / "one.png")


def test_cut_states_cost_what_the_same_images_lose(made, tmp_path):
    scores = {
        "unchanged": (30, 28),
        "memory/sorted-4": (29, 27.5),
        "memory/raster-4": (28, 27),
        "memory/sorted-1": (20, 20),
    }
    found = [made.scored(name, dict(zip("ab", psnr, strict=True))) for name, psnr in scores.items()]
    found.append(made.scored("unchanged", {"a": 99.0}, weights="f" * 64))
    costs = decay.costs(made.decay(), found)
    assert list(costs.itertuples(index=False, name=None))[1][:3] == ("network", 4, 0.75)  # raster has no base
    half = 12.706204736 * 0.25  # t of one degree of freedom, times the standard error
    assert costs.iloc[1][["low", "high"]].to_list() == pytest.approx([0.75 - half, 0.75 + half])
    assert list(costs["steps"]) == [1, 4]
    more = found[0].rows.assign(seed=1, psnr=99.0)  # of the base alone: no difference is paired with it
    found[0] = replace(found[0], rows=typed(pd.concat([found[0].rows, more])))
    pd.testing.assert_frame_equal(decay.costs(made.decay(), found), costs)
    decay.draw([made.decay()], tmp_path / "one.png", found)
    assert (tmp_path / "one.png").stat().st_size > 10_000


def test_maps_and_indices_of_the_images_that_all_networks_have(made, tmp_path):
    one = made.lam({"a": 10.0, "b": 12.0}, tmp_path / "1")
    other = made.lam({"b": 11.0}, tmp_path / "2", weights="f" * 64, file="other.pth")
    found = attribution.indices([one, other])
    assert list(found.index) == ["b"] and found.loc["b"].to_list() == [12, 11]
    attribution.draw([one, other], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000


def test_maps_of_other_windows_are_not_compared(made, tmp_path):
    one, other = made.lam({"a": 10.0}), made.lam({"a": 9.0}, weights="f" * 64, file="other.pth")
    other.rows["top"] = 32
    with pytest.raises(ValueError, match="not the same"):
        attribution.indices([one, other])


def test_the_share_of_a_field_within_squares(made, tmp_path):
    values = np.zeros((9, 9))
    values[4, 4], values[3, 4], values[0, 0] = 5, 3, 2
    sides, shares = fields.within(values)
    assert list(sides[:5]) == [1, 3, 5, 7, 9]
    np.testing.assert_allclose(shares[:5], [0.5, 0.8, 0.8, 0.8, 1])
    found = made.erf(values, tmp_path)
    np.testing.assert_allclose(fields.mean_field(found, "mambair"), values)
    field.draw([found], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000


def test_fields_without_arrays_say_what_to_run(made, tmp_path):
    with pytest.raises(ValueError, match="run analyse erf"):
        fields.mean_field(made.redundancy(), "mambair")
