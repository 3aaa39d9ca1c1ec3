"""Families of trained variants: whom they are compared with, published differences, verdicts, what is in no family."""

from dataclasses import replace

import numpy as np
import pytest

from reports.charts import way
from reports.tables import index, render, steps, trained
from reports.tables.blocks import blocks
from results import published, records
from results.evidence import Evidence
from suites.spec import Budget

LIGHT = "mambairv2-light"
REDUCED = Budget("reduced", 6000)


def frame(store, name="reduced"):
    return index.table(name, Evidence(store))


def row(frame, method, metric="psnr", dataset="Urban100"):
    found = frame[(frame["method"] == method) & (frame["metric"] == metric) & (frame["dataset"] == dataset)]
    assert len(found) == 1, method
    return found.iloc[0]


@pytest.fixture
def components(store, make):
    """A function that files base, attention only and + ASE on Urban100 with given differences and scatter per seed."""

    def fill(attention, ase, noise=(0.0, 0.004, -0.004, 0.001), images=100):
        cells = {
            "base": make.cell("base", 0, REDUCED, LIGHT),
            "attention-only": make.cell("attention-only", 0, REDUCED, LIGHT, scans=0),
            "sgn-off": make.cell("sgn-off", 0, REDUCED, LIGHT, sgn="off"),
        }
        for seed, wobble in enumerate(noise):
            for name, change in (("base", 0.0), ("attention-only", attention + wobble), ("sgn-off", ase - wobble)):
                variant = cells[name].variant
                one = make.on(make.cell(name, seed, REDUCED, LIGHT, **variant.overrides), "Urban100")
                make.train(store, one, 30 + seed / 10 + change, images=images)
        members = [(label, make.on(cells[name], "Urban100").config()) for name, label in LABELS.items()]
        store.add_family("ablations", "components", members[0][1], members)
        return frame(store)

    return fill


LABELS = {"base": "attention + ASE + SGN", "attention-only": "attention only", "sgn-off": "ASE"}


def test_published_differences_are_of_networks_trained_alike():
    found = steps.steps(published.load().tables)
    network = {
        name: steps.network_key(LIGHT, overrides)
        for name, overrides in {"base": {"upscale": 2}, "attention": {"scans": 0}, "B": {"prompt_target": "B"}}.items()
    }
    step = found[network["attention"], network["base"], "sr-x2", "Urban100", "psnr"]
    assert (step.text, step.provenance) == ("-0.08", "secondary") and step.source.startswith(
        "ablation-components: 32.89"
    )
    assert step.value == pytest.approx(-0.08) and step.resolution == pytest.approx(0.01)
    assert found[network["base"], network["attention"], "sr-x2", "Manga109", "psnr"].text == "+0.13"
    assert found[network["B"], network["base"], "sr-x2", "Urban100", "psnr"].text == "-0.01"
    assert (network["B"], network["attention"], "sr-x2", "Urban100", "psnr") not in found  # of two tables


def test_a_family_is_judged_by_the_published_differences(components, store):
    table = components(-0.09, 0.05)
    base, attention, ase = (row(table, label) for label in LABELS.values())
    assert base["verdict"] == "base" and base["setting"] == "ablations, components"
    assert (attention["published"], attention["verdict"]) == ("-0.08", "confirms")
    assert attention["difference"] == pytest.approx(-0.09 + 0.00025)
    assert (ase["published"], ase["verdict"]) == ("-0.03", "contradicts")
    assert attention["p"] < 0.001 and attention["df"] == 6 and attention["provenance"] == "secondary"
    assert row(table, "attention only", "ssim")["published"] is None
    text = render.render(table, "md", index.caption("reduced"))
    assert "### sr-x2 on Urban100, reduced budget (ablations, components)" in text
    assert "| attention only        |" in text and "| -0.08 | confirms" in text
    assert "Only the differences mean something: no score here is comparable with the paper's." in text
    assert max(map(len, text.splitlines())) <= 100


def test_other_sizes_and_wide_intervals(components):
    table = components(-0.4, -0.03, noise=(0.0, 0.04, -0.04, 0.01))
    attention, ase = row(table, "attention only"), row(table, "ASE")
    assert attention["verdict"] == "differs" and attention["mde"] is None
    assert ase["verdict"] == "inconclusive" and 0.02 < ase["mde"] < 0.2
    assert ase["note"].endswith(" seeds would find the published -0.03")


def test_a_part_of_the_set_is_not_the_published_set(components):
    table = components(-0.09, 0.05, images=12)
    attention = row(table, "attention only")
    assert attention["published"] is None and attention["verdict"] == "worse"
    assert (
        attention["evidence"]
        == "reduced budget, 6000 iterations, seeds 0, 1, 2, 3, on 12 of its 100 images; a machine, commit abc"
    )


def test_the_papers_own_table_says_where_the_difference_is(components, store):
    components(-0.09, 0.05)
    table = index.table("ablation-components", Evidence(store))
    found = row(table, "+ ASE")
    assert found["measured"] is None
    assert found["verdict"] == "not comparable, trained at a smaller budget: its difference is in reduced"
    assert row(table, "+ ASE", dataset="Manga109")["measured"] is None


def test_a_cell_in_no_family_is_said_and_nothing_is_lost(components, store, make):
    components(-0.09, 0.05)
    for seed in range(4):
        one = make.on(make.cell("mystery", seed, REDUCED, "no-such-model", speed=9), "Urban100")
        make.train(store, one, 31.0 + seed / 10, images=100)
    table = frame(store)
    assert set(table["method"]) == {*LABELS.values(), "base", "mystery"}
    found = row(table, "mystery")
    assert found["note"] == "no family of this store names it" and found["difference"] == pytest.approx(1.0)
    assert row(table, "attention only")["verdict"] == "confirms"  # its family is as it was
    text = render.render(table, "md", "")
    assert text.count("no family of this store names it") == 1


def test_a_cell_of_another_version_is_one_line(components, store, tmp_path):
    components(-0.09, 0.05)
    from results import records

    config = {"variant": {"name": "odd"}, "task": "sr-x2"}
    folder = store.root / records.key_of(config)
    records.write_json(folder / "config.json", config)
    evidence = Evidence(store)
    (problem,) = index.problems(evidence)
    assert problem.startswith(f"cell {folder.name}: a configuration lacks") and "\n" not in problem
    assert row(index.table("reduced", evidence), "attention only")["verdict"] == "confirms"


def test_a_damaged_family_leaves_its_cells(components, store):
    components(-0.09, 0.05)
    for path in (store.root / "families").glob("*/member.json"):
        path.write_text("{")
    evidence = Evidence(store)
    assert len(index.problems(evidence)) == 3 and all("member.json" in line for line in index.problems(evidence))
    table = index.table("reduced", evidence)
    assert row(table, "attention-only")["verdict"] == "confirms"  # by its study, under its own name


def test_members_without_cells_are_blank(store, make):
    base, other = (make.cell(name, 0, REDUCED, LIGHT, **kind) for name, kind in (("base", {}), ("off", {"sgn": "off"})))
    make.train(store, base, 30.0)
    store.add_family("ablations", "one", base.config(), [("all", base.config()), ("none", other.config())])
    table = frame(store)
    assert row(table, "none", dataset="embedded")["verdict"] == "not run"
    assert [cells[0].text for cells in next(blocks(table)).rows] == ["all", "none"]


def test_an_unfinished_cell_says_how_far_it_is_and_its_way_where_it_ends(store, make):
    cells = [make.cell(name, 0, REDUCED, LIGHT, **kind) for name, kind in (("base", {}), ("off", {"sgn": "off"}))]
    for seed in (0, 1):
        for number, one in enumerate(cells):
            one = replace(one, seed=seed)
            folder = store.open_cell(one.config())
            store.write_status(folder, "planned", step=3_500, reason="stopped at step 3500; it will continue")
            for iteration in (500, 1_500, 3_000):
                rows = make.scores("embedded", 4, 30 + number * (1 + seed) / 10 + seed * iteration / 1e6)
                records.write_frame(folder / f"scores-{iteration}.parquet", rows)
    store.add_family("ablations", "one", cells[0].config(), [("all", cells[0].config()), ("none", cells[1].config())])
    unfinished = row(frame(store), "none", dataset="embedded")
    assert unfinished["verdict"] == "unfinished"
    assert unfinished["note"] == "2 of 2 seeds missing (unfinished: 3,500 of 6,000 iterations)"
    drawn = way.differences(Evidence(store))
    assert set(drawn["panel"]) == {"ablations, one; embedded x2, reduced; minus all; 3,000 of 6,000 iterations"}
    assert list(drawn["iteration"]) == [500, 1_500, 3_000] and drawn["value"].tolist() == pytest.approx([0.15] * 3)
    assert drawn["lowest"].tolist() == pytest.approx([0.1] * 3) and drawn["highest"].tolist() == pytest.approx(
        [0.2] * 3
    )


def test_a_cell_may_be_in_several_families(store, make):
    base, off = (make.cell(name, 0, REDUCED, LIGHT, **kind) for name, kind in (("base", {}), ("off", {"sgn": "off"})))
    make.train(store, base, 30.0)
    make.train(store, off, 30.1)
    store.add_family("ablations", "first", base.config(), [("all", base.config()), ("none", off.config())])
    store.add_family("ablations", "second", off.config(), [("plain", off.config()), ("more", base.config())])
    table = frame(store)
    differences = table[table["metric"] == "psnr"].set_index("method")["difference"]
    assert differences["none"] == pytest.approx(0.1) and differences["more"] == pytest.approx(-0.1)
    assert len(list(blocks(table))) == 2


def test_a_variant_that_scatters_more_than_its_family_is_said(store, make):
    wobble = np.random.default_rng(0).normal(0, 0.01, (5, 4))
    wobble[4] = (0.5, -0.5, 0.4, -0.4)
    for seed in range(4):
        make.train(store, make.cell("base", seed), 30 + wobble[0, seed])
        for number in range(1, 5):
            make.train(store, make.cell(f"v{number}", seed, num_tokens=number), 30 + wobble[number, seed])
    table = frame(store, "smoke")
    noisy = row(table, "v4", dataset="embedded")
    assert "scatters over 1.5 times as much as its family, by itself [" in noisy["note"]
    assert row(table, "v1", dataset="embedded")["note"] == ""


def test_a_pair_has_one_verdict_whichever_way_round_it_is_read(components, store):
    """In the family's table, and for a claim that puts either of the two first. Holm's p of + ASE is its own (the
    smaller one, of attention only, is doubled); by + ASE as the base it would be doubled, and nothing told apart."""
    table = components(-0.011, -0.0063)
    evidence, shown = Evidence(store), row(table, "ASE")

    def read(*pair):
        (found,) = trained.pairs("reduced", evidence, {}, pair, ("components",))
        return found

    there, back = read("sgn=off", ""), read("", "sgn=off")
    assert shown["p"] < 0.05 < 2 * shown["p"] and there["p"] == back["p"] == shown["p"]
    assert (there["verdict"], back["verdict"]) == ("worse", "better")
    assert back["difference"] == -there["difference"] == pytest.approx(0.0063 + 0.00025)
    assert (back["low"], back["high"]) == (-there["high"], -there["low"]) and back["low"] > 0
    assert (there["method"], there["against"]) == (back["against"], back["method"]) == ("ASE", "whole network")
    assert back["measured"] == row(table, "attention + ASE + SGN")["measured"]
    neither = [read(*pair) for pair in (("sgn=off", "scans=0"), ("scans=0", "sgn=off"))]  # without the base
    assert len({one["p"] for one in neither}) == len({one["verdict"] for one in neither}) == 1
