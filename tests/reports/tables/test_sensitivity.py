"""What the protocol is worth, from scores whose differences are known picture by picture."""

import re

import numpy as np
import pytest
from scipy import stats

from reports.tables import index, render, sensitivity
from reports.tables.blocks import blocks
from results.evidence import Evidence
from suites.spec import Protocol, Task

OFFICIAL = sensitivity.OFFICIAL


def frame(store):
    return index.table("sensitivity", Evidence(store))


def row(frame, method, dataset="Set5", metric="psnr"):
    found = frame[(frame["method"] == method) & (frame["dataset"] == dataset) & (frame["metric"] == metric)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, OFFICIAL),
        ({"seed": 7}, OFFICIAL),
        ({"routing": "argmax"}, "argmax, tiles"),
        ({"routing": "argmax", "tiling": "none"}, "argmax, whole image"),
        ({"tiling": "none"}, "Gumbel, whole image"),
        ({"samples": 8}, "mean of 8, tiles"),
        ({"tiling": "100"}, "Gumbel, tiles of 100"),
        ({"lr_route": "pil"}, "LR by Pillow"),
        ({"lr_route": "once"}, "LR rounded once"),
        ({"prompt_order": "semantic"}, "semantic prompts"),
        ({"precision": "bf16", "routing": "argmax"}, "argmax, tiles, bf16"),
    ],
)
def test_settings_have_names(change, name):
    assert sensitivity.setting("sr-x2", Protocol.official(Task.parse("sr-x2"), **change).to_dict()) == name


def test_there_is_a_table_only_where_a_protocol_differs(store, make):
    make.evaluate(store, 38.2, tiling="none")
    assert "sensitivity" not in index.names(Evidence(store))
    make.evaluate(store, 34.0, dataset="Set14", images=14, of=14)
    assert "sensitivity" in index.names(Evidence(store))
    assert row(frame(store), "Gumbel, whole image")["verdict"] == "no whole set under the official protocol"


def test_nothing_to_show_is_no_table(store, make):
    make.evaluate(store, 38.2)
    assert "sensitivity" not in index.names(Evidence(store))
    with pytest.raises(index.TableError, match=r"runner\.py sweep"):
        frame(store)


def test_differences_are_paired_over_pictures(store, make):
    gains = np.array([0.1, -0.2, 0.3, 0.0, 0.15])
    make.evaluate(store, 38.2)
    make.evaluate(store, 38.2, change=gains, routing="argmax")
    found = row(frame(store), "argmax, tiles")
    error, tilt = stats.sem(gains), stats.skew(gains, bias=False) / 5**0.5

    def hall(true):  # Student's t of a mean, its skewness removed
        t = (gains.mean() - true) / error
        return t + tilt * t**2 / 3 + tilt**2 * t**3 / 27 + tilt / 6

    assert found["difference"] == pytest.approx(gains.mean())
    assert (hall(found["low"]), hall(found["high"])) == pytest.approx((stats.t.ppf(0.975, 4), stats.t.ppf(0.025, 4)))
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(hall(0)), 4))
    assert found["verdict"] == "inconclusive" and found["df"] == 4
    assert found["measured"] == pytest.approx(38.2 + gains.mean()) and "n=5" in found["interval"]
    assert found["evidence"] == "weights 01234567, no noise; a machine, commit abc"


def test_provenance_is_said_by_set(store, make):
    for seed in (0, 1):
        make.evaluate(store, 38.2, seed=seed)
    make.evaluate(store, 34.0, dataset="Set14", images=14, of=14)
    make.evaluate(store, 38.1, routing="argmax")
    lines = render.render(frame(store), "md", "").splitlines()
    assert "Set5: Gumbel seeds 0, 1; a machine, commit abc.  " in lines
    assert any(line.startswith("Set14: Gumbel seed 0; a machine, commit abc.") for line in lines)


def test_seeds_pair_where_noise_is_drawn_and_average_where_none_is(store, make):
    for seed, score in enumerate((38.0, 38.2, 38.4)):
        make.evaluate(store, score, seed=seed)
    make.evaluate(store, 38.5, seed=1, tiling="none")
    make.evaluate(store, 38.5, routing="argmax")
    table = frame(store)
    assert row(table, "Gumbel, whole image")["difference"] == pytest.approx(0.3)  # against seed 1
    assert row(table, "argmax, tiles")["difference"] == pytest.approx(0.3)  # against the mean of the three, 38.2
    official = row(table, OFFICIAL)
    assert official["measured"] == pytest.approx(38.2) and official["evidence"].endswith(
        "Gumbel seeds 0, 1, 2; a machine, commit abc"
    )
    assert official["note"] == "sd 0.2000 dB between the seeds"
    make.evaluate(store, 38.5, seed=9, samples=8)
    assert row(frame(store), "mean of 8, tiles")["verdict"] == "no official score at Gumbel seed 9"


def test_a_difference_at_some_seeds_stands_beside_the_official_mean_of_those(store, make):
    """The means that are shown give the difference that is shown, or a row and a note say which ones do."""
    for seed, score in enumerate((38.0, 38.2, 38.4)):
        make.evaluate(store, score, seed=seed)
    make.evaluate(store, 38.5, seed=1, tiling="none")
    make.evaluate(store, 38.7, seed=9, tiling="none")
    make.evaluate(store, 38.3, seed=1, samples=8)
    make.evaluate(store, 38.5, routing="argmax")
    table = frame(store)
    own = row(table, f"{OFFICIAL}, seed 1")
    assert (own["measured"], own["verdict"], own["difference"]) == (pytest.approx(38.2), "base", None)
    assert own["note"] == "the base of all settings that draw noise" and "Gumbel seed 1;" in own["evidence"]
    for name in ("mean of 8, tiles", "Gumbel, whole image"):
        assert row(table, name)["difference"] == pytest.approx(row(table, name)["measured"] - 38.2, abs=0.11)
    assert row(table, "mean of 8, tiles")["difference"] == pytest.approx(0.1)
    assert row(table, "Gumbel, whole image")["note"] == "compared at seed 1"  # its mean is that of seeds 1 and 9
    lines = render.render(table, "md", "").splitlines()
    official = next(i for i, line in enumerate(lines) if line.startswith(f"| {OFFICIAL} "))
    assert lines[official + 1].startswith(f"| {OFFICIAL}, seed 1 ") and "38.200" in lines[official + 1]
    assert "Gumbel, whole image: compared at seed 1 (Set5).  " in lines


def test_one_set_of_seeds_needs_no_row_of_its_own(store, make):
    make.evaluate(store, 38.2)
    make.evaluate(store, 38.5, tiling="none")
    assert set(frame(store)["method"]) == {OFFICIAL, "Gumbel, whole image"}


def test_holm_runs_over_the_settings_of_a_set(store, make):
    gains = np.array([0.06, 0.18, 0.09, 0.15, 0.12])  # without skewness, which leaves Student's t
    make.evaluate(store, 38.2)
    for change in ({"routing": "argmax"}, {"tiling": "none"}, {"lr_route": "pil"}):
        make.evaluate(store, 38.2, change=gains, **change)
    found = row(frame(store), "LR by Pillow")
    assert found["p"] == pytest.approx(3 * stats.ttest_1samp(gains, 0).pvalue) and found["verdict"] == "better"


def test_the_same_scores_are_identical_and_no_comparison(store, make):
    gains = np.array([0.06, 0.18, 0.09, 0.15, 0.12])  # without skewness, which leaves Student's t
    make.evaluate(store, 38.2)
    make.evaluate(store, 38.2, tiling="none")
    make.evaluate(store, 38.2, change=gains, routing="argmax")
    table = frame(store)
    same = row(table, "Gumbel, whole image")
    assert (same["difference"], same["verdict"], same["p"]) == (0, "identical", None)
    assert row(table, "argmax, tiles")["p"] == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    text = render.render(table, "md", "")
    assert re.search(r"\| Gumbel, whole image +\| +identical \|", text) and "Identical: no score changed." in text


def test_half_a_set_is_said_and_the_rest_is_shown(store, make):
    for dataset, count, of in (("Set5", 5, 5), ("Urban100", 50, 100)):
        make.evaluate(store, 33.0, dataset=dataset, images=count, of=of)
        make.evaluate(store, 32.9, dataset=dataset, images=of, of=of, tiling="none")
    table = frame(store)
    assert row(table, OFFICIAL, "Urban100")["verdict"] == "50 of 100 images"
    assert row(table, "Gumbel, whole image", "Urban100")["difference"] is None
    assert row(table, "Gumbel, whole image")["difference"] == pytest.approx(-0.1)
    text = render.render(table, "md", index.caption("sensitivity"))
    assert f"{OFFICIAL}: 50 of 100 images (Urban100)." in text and "-0.100 *" in text and "-0.100, -0.100" in text
    assert max(map(len, text.splitlines())) <= 100


def test_four_sets_fit_in_a_terminal_and_all_formats(store, make):
    for dataset, count in (("Urban100", 100), ("Set5", 5), ("BSD100", 100), ("Set14", 14)):
        make.evaluate(store, 33.0, dataset=dataset, images=count, of=count)
        make.evaluate(store, 32.9, dataset=dataset, images=count, of=count, tiling="none", routing="argmax")
        make.evaluate(store, 33.1, dataset=dataset, images=count, of=count, samples=8)
    table = frame(store)
    scores, _ = blocks(table)
    assert scores.header == ("setting", "Set5", "Set14", "BSD100", "Urban100")
    assert [cells[0].text for cells in scores.rows] == [OFFICIAL, "mean of 8, tiles", "argmax, whole image"]
    assert not any(cell.mark for cells in scores.rows for cell in cells)  # no contest
    assert "mean of 8, tiles: single samples 33.100 dB (Set5, Set14, BSD100, Urban100)" in " ".join(scores.notes)
    assert max(map(len, render.render(table, "md", "").splitlines())) <= 100
    latex = render.render(table, "tex", "")
    assert r"argmax, whole image & $-$0.100 *" in latex and latex.count(r"\toprule") == 2
    assert render.render(table, "csv", "").count("\n") == 1 + 3 * 4 * 2
