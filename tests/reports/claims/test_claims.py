"""Claims are judged by what is stored and committed: as docs/findings.md says, and each rule on made-up scores."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports import claims
from reports.claims import mechanisms, trainings
from reports.pages import report
from reports.tables import index
from reports.tables.rows import COLUMNS
from results import published
from results.evidence import Evidence

TOLD = claims.load()
WORDS = (("costs", "aa"), ("no effect within 0.01 dB", "bb"))
STEPS_APART = (("network", 30.2), ("shuffled", 32.9), ("raster", 1.9))  # pixels
published_weights = published.official_weights
ALL = [claim for section in claims.SECTIONS for claim in TOLD[section]]


def judged(evidence: Evidence, name: str) -> claims.Judged:
    (claim,) = [claim for claim in ALL if claim["id"] == name]
    return claims.judge(evidence, [claim])[0]


def test_no_number_stands_in_the_file():
    """All of them are read from what is published and measured."""
    told = (value for claim in ALL for value in claim.values())
    assert not [value for value in told if isinstance(value, int | float)]


def test_every_claim_has_a_rule_and_tables_that_there_are(clone):
    names = set(index.names(clone)) | set(published.names())
    analyses = {*mechanisms.ASKED, mechanisms.QUALITY, mechanisms.LAM}
    for claim in ALL:
        assert claim.get("rule") in {*claims.RULES, claims.MECHANISM} or claim["analysis"] in analyses, claim["id"]
        assert set(claim["tables"]) <= names and claim["command"], claim["id"]


def test_what_is_committed_is_judged_as_the_findings_say(clone):
    scores = judged(clone, "light-scores")
    assert (scores.verdict, scores.level, scores.key.text) == ("reproduced where run", claims.HOLDS, "16 of 16")
    assert scores.headline.endswith("all within 0.008 dB") and "commit" in scores.key.source
    lead = judged(clone, "lead-srformer")
    assert report.text_of(lead.said) == "+0.35 dB on Urban100 x2 (33.26 against 32.91)"
    assert report.text_of(lead.found).startswith("+0.357 dB [+0.352, +0.362] over the printed 32.91")
    assert report.text_of(judged(clone, "fewer").said).startswith("9.3 % fewer")
    assert judged(clone, "lead-hat").level == judged(clone, "jpeg-denoising").level == claims.ABSENT
    components = judged(clone, "components")
    assert components.level == claims.OPEN and components.verdict == "trainings: open"
    assert judged(clone, "classes").verdict.startswith("weights: no effect within 0.01 dB")
    routing = judged(clone, "routing")
    assert (routing.level, routing.key.text) == (claims.FAILS, "-0.270 dB")
    assert judged(clone, "equation").verdict == "equivalent: all within ±0.02 dB"


def scored(evidence: Evidence, budget: str, dataset: str) -> dict[str, list[float]]:
    """Mean PSNR by variant, in the order of seeds, straight from the committed scores of pictures."""
    cells = evidence.cells[(evidence.cells["budget"] == budget) & (evidence.cells["state"] == "done")]
    own = evidence.scores[evidence.scores["dataset"] == dataset].groupby("hash")["psnr"].mean()
    cells = cells[cells["task"] == "sr-x2"].assign(psnr=cells["hash"].map(own)).sort_values("seed")
    return cells.groupby("variant")["psnr"].agg(list).to_dict()


@pytest.mark.parametrize(
    ("claim", "printed", "pairs"),
    [
        ("components", "+0.08", [("base", "attention-only"), ("base", "plain-scan")]),
        ("prompts", "+0.05", [("sgn-off", "attention-only"), ("sgn-off", "plain-scan"), ("base", "ase-off")]),
        ("order", "+0.03", [("base", "sgn-off")]),
        ("state", None, [("plain-scan", "no-memory")]),
        ("sgn-alone", None, [("ase-off", "plain-scan")]),
    ],
)
def test_a_claim_compares_the_pair_that_it_names(clone, claim, printed, pairs):
    """Scipy's paired t from the pictures' scores, pair by pair; the paper's step is of the first pair."""
    (told,) = [one for one in ALL if one["id"] == claim]
    rows = [row for row in trainings.measured(told, clone) if row["budget"] == "reduced-bf16"]
    for dataset in ("BSD100", "Urban12"):
        own, scores = [row for row in rows if row["dataset"] == dataset], scored(clone, "reduced-bf16", dataset)
        assert len(own) == len(pairs)
        for row, (one, other) in zip(own, pairs, strict=True):
            found = stats.ttest_rel(scores[one], scores[other]).confidence_interval(0.95)
            assert row["difference"] == pytest.approx(np.mean(scores[one]) - np.mean(scores[other]), abs=1e-9)
            assert (row["own_low"], row["own_high"]) == pytest.approx((found.low, found.high), abs=1e-9)
    found = judged(clone, claim)
    said, shown = report.text_of(found.said), report.text_of(found.trainings)
    assert f" {printed} dB on Urban100" in said if printed else not said
    first = next(row for row in rows if row["dataset"] == "BSD100")
    assert f"reduced-bf16, BSD100: {first['method']} less {first['against']} {first['difference']:+.3f} " in shown


def test_what_would_be_found_is_that_of_the_set_that_is_shown(clone):
    (told,) = [one for one in ALL if one["id"] == "sgn-alone"]
    mde = {row["dataset"]: row["mde"] for row in trainings.measured(told, clone)}
    assert mde["BSD100"] < mde["Set14"]
    assert f"{mde['BSD100']:.3f} dB would be found" in report.text_of(judged(clone, "sgn-alone").trainings)


def test_the_headline_of_a_training_is_made_of_its_verdict(clone):
    (told,) = [one for one in ALL if one["id"] == "components"]
    found = trainings.measured(told, clone)
    key, words = trainings.headline(told, found)  # four seeds, and not the two that were trained ten times as long
    assert words["where"].startswith("BSD100, reduced-bf16 budget") and words["what"].startswith("alike within ±0.02")
    full = [row | {"budget": "paper"} if row["budget"] == "long-bf16" else row for row in found]
    assert trainings.headline(told, full)[1]["where"].startswith("BSD100, paper budget")  # decides, however wide
    rows = [row | {"verdict": "better", "difference": 0.04} for row in found]
    assert trainings.headline(told, rows)[1]["what"] == "better"
    assert trainings.headline(told, [row | {"budget": "recovery"} for row in rows]) == (None, {})
    assert judged(clone, "components").key == key


def test_weights_that_go_on_from_others_or_were_trained_for_less_are_shown_and_not_counted(store, monkeypatch):
    starts = {"official": "2609912bc390", "ntire": "01c43e8dd3e0", "short": "6c4fae67"}  # the last of 6,000 iterations
    common = dict.fromkeys(COLUMNS) | {"method": "prompts/zero", "task": "sr-x4", "dataset": "Set14", "metric": "psnr"}
    bounds = {"difference": -0.4, "low": -0.5, "high": -0.3, "verdict": "costs"}
    monkeypatch.setattr(published, "official_weights", published_weights)

    def found(**verdicts):
        rows = [common | bounds | {"setting": f"weights {starts[who]}"} | each for who, each in verdicts.items()]
        monkeypatch.setattr(claims.index, "tables", lambda _: {"interventions": pd.DataFrame(rows, dtype=object)})
        return judged(Evidence(store), "prompts")

    both = found(official={}, ntire={"verdict": "gains", "difference": 0.4})
    assert both.verdict.startswith("weights: confirmed")
    assert report.text_of(both.weights).endswith(
        "NTIRE x4 (not counted): Set14 +0.400 [-0.500, -0.300]; of 1 sets: costs on 1"
    )
    assert found(ntire={}).verdict.startswith("weights: open")
    less = found(official={}, short={"verdict": "no effect", "difference": 0.0})
    assert less.verdict.startswith("weights: confirmed") and "(not counted)" in report.text_of(less.weights)


def test_a_score_that_differs_is_named(store, make):
    make.evaluate(store, 38.50)
    found = judged(Evidence(store), "light-scores")
    assert found.level == claims.FAILS and found.verdict.startswith("differs in ")
    assert "MambaIRv2-light x2 has 38.500 and not 38.26" in report.text_of(found.found)


def test_nothing_run_has_no_headline(store):
    for claim in claims.judge(Evidence(store), ALL):
        assert claim.level != claims.HOLDS or claim.evidence in (claims.COUNTED, claims.TIMED)
        assert not claim.headline or claim.evidence in (claims.COUNTED, claims.TIMED)


def test_only_the_papers_budget_decides_an_ablation(store, make):
    from suites.spec import Budget

    for seed in (0, 1, 2):
        for budget in (Budget("smoke", 300),):
            make.train(store, make.cell("base", seed, budget, "mambairv2-light"), 30.0 + seed / 10)
            make.train(store, make.cell("sgn-off", seed, budget, "mambairv2-light", sgn="off"), 29.0 + seed / 9.9)
    found = judged(Evidence(store), "order")
    assert found.level == claims.OPEN and found.verdict == "weights: not run; trainings: open"
    assert "whole network less" in (told := report.text_of(found.trainings)) and "better on 1 of 1" in told
    for seed in (0, 1, 2):
        make.train(store, make.cell("base", seed, Budget("paper", 250_000), "mambairv2-light"), 30.0 + seed / 10)
        variant = make.cell("sgn-off", seed, Budget("paper", 250_000), "mambairv2-light", sgn="off")
        make.train(store, variant, 29.0 + seed / 9.9)
    found = judged(Evidence(store), "order")
    assert (found.level, found.verdict) == (claims.HOLDS, "weights: not run; trainings: confirmed")


def test_what_weights_do_without_is_not_used(store, monkeypatch):
    def rows(*told, name="prompts", method="prompts/zero"):
        keys = ("dataset", "difference", "low", "high", "verdict")
        common = dict.fromkeys(COLUMNS) | {"method": method, "task": "sr-x2", "metric": "psnr", "interval": "I"}
        common |= {"evidence": "weights zz (mine.pth), Gumbel seeds 0", "protocol": "official", "setting": "weights zz"}
        frame = pd.DataFrame([common | dict(zip(keys, each, strict=True)) for each in told])
        monkeypatch.setattr(claims.index, "tables", lambda _: {"interventions": frame})
        return judged(Evidence(store), name)

    none, unsure = (
        ("Set14", 0.001, -0.004, 0.006, "no effect within 0.01 dB"),
        ("Set5", -0.4, -1.0, 0.2, "inconclusive"),
    )
    found = rows(none, unsure)  # the larger set tells
    assert (found.level, found.verdict) == (claims.FAILS, "weights: no effect within 0.01 dB; trainings: not run")
    told = "mine: Set14 +0.001 [-0.004, +0.006]; of 2 sets: no effect within 0.01 dB on 1, inconclusive on 1"
    assert report.text_of(found.weights) == told and found.tables == ["interventions"]
    assert rows(none, ("BSD100", *unsure[1:])).level == claims.OPEN
    costs = ("Set5", -0.4, -0.5, -0.3, "costs")
    assert rows(none, costs).verdict.startswith("weights: no effect")
    assert rows(none, ("BSD100", *costs[1:])).verdict.startswith("weights: confirmed")
    mine, another = (
        {"verdict": word, "setting": f"weights {name}", "task": "sr-x2", "evidence": ""} for word, name in WORDS
    )
    assert mechanisms._word([mine, another], "loss") == "open"  # one of two networks alone loses
    assert mechanisms._word([mine, mine], "loss") == "confirmed" and mechanisms._word([mine], "gain") != "confirmed"
    four = {"name": "scans", "method": "scan/directions-4"}  # claimed to gain nothing, in weights not trained with it
    for each in (none, costs):
        assert (rows(each, **four).level, rows(each, **four).verdict) == (
            claims.OPEN,
            "weights: nothing gained, untrained; trainings: not run",
        )
    assert report.text_of(rows(none, **four).weights).endswith("these weights were not trained with it")
    assert rows(("Set5", 0.4, 0.3, 0.5, "gains"), **four).level == claims.FAILS
    assert rows(("Set5", None, None, None, "3 of 5 images")).level == claims.ABSENT


def test_what_an_analysis_finds_decides(made):
    """decay: in the records made here raster order keeps more, at every step; none is of 64 steps."""
    assert mechanisms.reach([])[1] == "not run"
    rows = made.decay()
    near = rows.rows.replace({"steps": {16: 64}})
    found, word = mechanisms.reach([replace(rows, rows=near)])
    assert word == "contradicted" and "official x4 Set5 -0.2452" in report.text_of(found)
    steps = [{"image": "a", "order": order, "scope": "tile", "steps": 1, "distance": far} for order, far in STEPS_APART]
    longer = made.record("sgn-order", pd.DataFrame(steps))
    found, word = mechanisms.reach([replace(rows, rows=near), replace(longer, expected=1)])
    assert word == "open: no further back in steps, but steps are longer"
    told = "; a step goes: official x4 Set5 30 pixels sorted, 33 sorted by classes shuffled, 2 in raster order"
    assert report.text_of(found).endswith(told)
    alike = pd.concat([longer.rows, longer.rows.assign(image="b")]).replace({"distance": {32.9: 30.1}})
    _, word = mechanisms.reach([replace(rows, rows=near), replace(longer, rows=alike)])
    assert word.endswith(", as long as with classes shuffled (within 1 pixel)")
    swapped = near.replace({"order": {"network": "raster", "raster": "network"}})
    assert mechanisms.reach([replace(rows, rows=swapped)])[1] == "confirmed"


def test_networks_that_were_trained_like_a_mambair_are_held_against_it_window_by_window(made):
    cells = pd.DataFrame(
        {
            "weights": ["aa", "bb", "cc"],
            "config": [{"budget": {"name": "paper", "iterations": each}} for each in (9, 9, 5)],
            "train_sets": [["DIV2K"]] * 3,
            **{"seed": 0, "state": "done"},
        }
    )
    official = made.lam({"a": 9.0, "b": 11.0})
    assert mechanisms.pixels([], cells)[1] == "not run"
    assert mechanisms.pixels([official], cells)[1] == "open: no trained MambaIR was asked"
    ours = made.lam({"a": 5.0, "b": 8.0}, weights="aa", file="base.safetensors")
    theirs = made.lam({"a": 4.0, "b": 6.0}, weights="bb", file="mambair.safetensors")
    theirs = replace(theirs, key=theirs.key | {"model": "mambair-light"})
    found, word = mechanisms.pixels([official, ours, theirs], cells)
    assert word == "open: MambaIR was asked as trained here alone"
    text = report.text_of(found)
    assert "base x4 less mambair x4 +1.5 [" in text and "official x4 less" not in text
    shorter, untrained = (replace(ours, key=ours.key | {"weights": name}) for name in ("cc", "dd"))
    found, word = mechanisms.pixels([shorter, untrained, theirs], cells)
    assert word == "open: no network that was trained like the MambaIR was asked" and " less " not in report.text_of(
        found
    )


def test_the_claims_fit_a_terminal_and_say_their_command(clone):
    lines = report.claims_text(clone)
    assert max(map(len, lines)) <= 100
    assert {f"  command   runner.py {claim['command']}"[:60] for claim in ALL} <= {line[:60] for line in lines}
