"""The pilot's tables on made-up scores whose every variance is known in closed form."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reports.pages import pilot
from reports.pages.pilot import Pilot, Way
from results import export, records
from results.power import minimum_detectable_effect
from results.records import StoreError
from suites import recipes
from suites.evaluation import ways
from suites.recipes.pilot import SCORING

SEEDS, DRAWS = np.array([0.0, 0.3, -0.1, 0.2]), 4
ALTERNATING = np.array([1.0, -1.0, 1.0, -1.0])  # over the draws: two or four in order cancel, sum of squares 4


def made(difference=0.1, pairs=(0.02, -0.02, 0.01, -0.01), noise=0.05, minutes=3.0, scoring=0.0) -> Pilot:
    """Two variants: score = seed + (difference + pair) of the variant + noise of the draw, of the variant alone."""
    rows = []
    for weights, scale in (("last", 1.0), ("average", 0.5), ("half", 2.0)):
        for dataset in ("Set14", "BSD100"):
            for seed, base in enumerate(SEEDS):
                for gumbel in range(DRAWS):
                    shared = weights, gumbel, dataset
                    rows.append(("base", seed, *shared, 30 + base))
                    own = difference + scale * (pairs[seed] + noise * ALTERNATING[gumbel] * (-1) ** seed)
                    rows.append(("plain-scan", seed, *shared, 30 + base + own))
    frame = pd.DataFrame(rows, columns=["variant", "seed", "weights", "gumbel", "dataset", "psnr"])
    return Pilot(frame, minutes, scoring, 6000)


def test_a_paired_difference_scatters_as_its_pairs_and_its_noise():
    found = made()
    pairs = np.array([0.02, -0.02, 0.01, -0.01])
    signs = (-1.0) ** np.arange(4)
    four = found.spread("Set14", Way("last", 4))
    assert four.df == 3 and four.sd == pytest.approx(pairs.std(ddof=1))
    one = np.mean([(pairs + 0.05 * sign * signs).var(ddof=1) for sign in ALTERNATING])
    assert found.spread("Set14", Way("last", 1)).sd == pytest.approx(math.sqrt(one))
    # Of the six choices of two draws, four cancel and two do not.
    two = np.mean([(pairs + 0.05 * mean * signs).var(ddof=1) for mean in (0, 0, 0, 0, 1, -1)])
    assert found.spread("Set14", Way("last", 2)).sd == pytest.approx(math.sqrt(two))
    assert found.spread("BSD100", Way("average", 4)).sd == pytest.approx(pairs.std(ddof=1) / 2)


def test_unpaired_scores_scatter_as_their_seeds():
    found = made(noise=0.0)
    spread = found.spread("Set14", Way("last", 1, paired=False))
    pairs = np.array([0.02, -0.02, 0.01, -0.01])
    expected = SEEDS.var(ddof=1) + (SEEDS + pairs).var(ddof=1)  # of a difference of independent scores
    assert spread.df == 6 and spread.sd == pytest.approx(math.sqrt(expected))
    # 95 % of the chi-square with 6 degrees of freedom: 1.2373 and 14.4494
    assert spread.bounds == pytest.approx((math.sqrt(6 / 14.4494), math.sqrt(6 / 1.2373)), rel=1e-4)


def test_noise_is_between_draws_of_the_same_weights():
    noise = made().noise("Set14", "last")
    assert noise.df == 4 * 3  # the base draws none: its scores are one score, copied
    assert noise.sd == pytest.approx(0.05 * math.sqrt(4 / 3))


def test_differences_and_what_an_hour_tells():
    found = made(scoring=0.25)
    difference = found.differences("Set14", "last")["plain-scan"]
    assert difference.interval.mean == pytest.approx(0.1) and difference.interval.n == 4
    sd = np.std([0.02, -0.02, 0.01, -0.01], ddof=1)
    pairs = 60 / (2 * (3.0 + 4 * 0.25))
    assert found.sharpness("last") == pytest.approx(math.sqrt(((0.1 / sd) ** 2 - 1 / 4) * pairs))
    pairs = 60 / (2 * (1.5 + 4 * 0.25))
    assert found.sharpness("half") == pytest.approx(math.sqrt(((0.1 / (2 * sd)) ** 2 - 1 / 4) * pairs))
    assert made(difference=0.0).sharpness("last") == 0


def test_plans_spend_the_hours_and_the_rule_chooses():
    found = made(scoring=0.1)
    plan = pilot.plan(found, 2, 4, ("last",))
    assert plan.way == Way("last", 4)  # noise costs more than draws
    assert plan.seeds == int(120 / (5 * (3.0 + 0.4)))
    sd = np.std([0.02, -0.02, 0.01, -0.01], ddof=1)
    expected = minimum_detectable_effect(sd, plan.seeds, 0.05 / 4, df=4 * (plan.seeds - 1))
    assert plan.mde == pytest.approx({"Set14": expected, "BSD100": expected})
    assert pilot.plan(found, 2, 25, ("last",)) is None  # one seed tells nothing
    best = pilot.chosen(found, 20)
    assert best.way.weights == "average" and best.compared == 25 and max(best.mde.values()) <= pilot.TARGET
    # Where the noise of pairs is large, one variant is all that can be asked for.
    hopeless = made(pairs=(0.9, -0.9, 0.8, -0.8))
    assert pilot.chosen(hopeless, 2).compared == 1 and min(pilot.chosen(hopeless, 2).mde.values()) > pilot.TARGET
    # Where half the iterations tell as much, they cost half.
    last = found.means[found.means["weights"] == "last"]
    same = pd.concat([last.assign(weights=weights) for weights in pilot.KINDS], ignore_index=True)
    assert pilot.chosen(replace(found, means=same), 5).way.weights == "half"


def test_tables_name_what_they_show():
    found = made()
    for table in (pilot.scatter, pilot.gains, pilot.effects, pilot.plans, pilot.costs):
        assert "nan" not in table(found)
    assert pilot.plans(found).count("the plan") == len(pilot.HOURS)
    assert "30.0 ms a step" in pilot.costs(found)
    silent = pilot.scatter(made(noise=0.0))  # no variant draws noise
    assert "nan" not in silent and silent.count(" none ") == 6
    line = next(line for line in pilot.gains(found).splitlines() if "the same, 4 draws" in line)
    mde = minimum_detectable_effect(np.std([0.02, -0.02, 0.01, -0.01], ddof=1), 4)
    assert f" {mde:.3f} " in line and " 10 " in line


def test_too_few_seeds_are_said(make):
    found = made()
    one = replace(found, means=found.means[found.means["seed"] == 0])
    with pytest.raises(StoreError, match="no two variants have two seeds"):
        one.spread("Set14", Way("last", 1))
    tables = pilot.tables(one)
    assert "Not measured yet: on Set14 no two variants have two seeds with last weights." in tables["scatter"]()
    effects = tables["effects"]()
    assert "+0.120" in effects  # 0.1 and its pair's 0.02; noise cancels over draws
    assert "Standard errors: not measured yet: on Set14" in effects


def test_committed_scores_are_read_with_their_cells(make, store, nothing_committed):
    cells = recipes.choose("pilot", budget="smoke").cells
    for number, cell in enumerate(cells):
        folder = make.train(store, cell, 30 + number, images=3)
        more = {"command": "pilot", "train_seconds": 120.0, "train_steps": 100, "scorers": 5}
        records.write_json(folder / "environment.json", {**make.MACHINE, **more})
        for way in ways.ways(cell, SCORING):
            frame = make.scores("embedded", 3, 30 + number + way.seed / 10)
            records.write_frame(ways.scores_path(folder, cell, way), frame)
    target = nothing_committed / "h100" / "pilot"

    def commit(name: str) -> None:
        export.export(store, name, "a command")

    commit("h100/pilot")
    found = pilot.load(nothing_committed)
    assert (found.minutes, found.iterations, found.draws, found.datasets) == (2.0, 100, 4, ["embedded"])
    assert found.scoring == pytest.approx(3 * 0.5 / 5 / 60)  # five at a time
    assert len(found.means) == 4 * 3 * 4 and "finished by `pilot`: 4; commit abc" in "\n".join(found.sources)
    first = found.means[(found.means["variant"] == "base") & (found.means["seed"] == 0)]
    assert first.groupby("gumbel")["psnr"].first().tolist() == pytest.approx([30, 30.1, 30.2, 30.3])
    commit("h100/pilot-again")
    with pytest.raises(StoreError, match=r"pilot.csv.xz have scores of the cell .* more than once"):
        pilot.load(nothing_committed)
    for path in target.parent.glob("pilot-again*"):
        path.unlink()
    ways.scores_path(folder, cell, ways.Way("half", 3)).unlink()
    commit("h100/pilot")
    with pytest.raises(StoreError, match=f"lacks some scores of {cells[-1].name}: run"):
        pilot.load(nothing_committed)
    target.with_name("pilot.scores.json").unlink()
    with pytest.raises(StoreError, match="not committed with it"):
        pilot.load(nothing_committed)


def test_what_is_not_measured_is_said():
    assert {make() for make in pilot.tables(None).values()} == {pilot.NOTHING}
    assert not any(pilot.NOTHING in make() for make in pilot.tables(made()).values())
