"""Claims are judged by what is stored and committed: as docs/findings.md says, and each rule on made-up scores."""

import pandas as pd
import pytest

from reports.pages import claims, report
from reports.tables import index
from reports.tables.rows import COLUMNS
from results import published
from results.evidence import Evidence
from results.store import Store

TOLD = claims.load()


def judged(evidence: Evidence, name: str) -> claims.Judged:
    (claim,) = [claim for claim in (*TOLD["claims"], *TOLD["beside"]) if claim["id"] == name]
    return claims.judge(evidence, [claim])[0]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Evidence:
    return Evidence(Store(tmp_path_factory.mktemp("clone") / "none"))


def test_no_number_stands_in_the_file():
    """All of them are read from what is published and measured."""
    told = (value for claim in (*TOLD["claims"], *TOLD["beside"]) for value in claim.values())
    assert not [value for value in told if isinstance(value, int | float)]


def test_every_claim_has_a_rule_and_tables_that_there_are(clone):
    names = set(index.names(clone)) | set(published.names())
    for claim in (*TOLD["claims"], *TOLD["beside"]):
        assert claim["rule"] in claims.RULES and set(claim["tables"]) <= names, claim["id"]


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
    assert components.level == claims.OPEN and "only at the budget reduced" in components.verdict
    routing = judged(clone, "routing")
    assert (routing.level, routing.key.text) == (claims.FAILS, "-0.270 dB")
    assert judged(clone, "order").verdict == "equivalent: all within ±0.02 dB"


def test_a_score_that_differs_is_named(store, make):
    make.evaluate(store, 38.50)
    found = judged(Evidence(store), "light-scores")
    assert found.level == claims.FAILS and found.verdict.startswith("differs in ")
    assert "MambaIRv2-light x2 has 38.500 and not 38.26" in report.text_of(found.found)


def test_nothing_run_has_no_headline(store):
    for claim in claims.judge(Evidence(store), [*TOLD["claims"], *TOLD["beside"]]):
        assert claim.level != claims.HOLDS or claim.evidence in (claims.COUNTED, claims.TIMED)
        assert not claim.headline or claim.evidence in (claims.COUNTED, claims.TIMED)


def test_only_the_papers_budget_decides_an_ablation(store, make):
    from suites.spec import Budget

    for seed in (0, 1, 2):
        for budget in (Budget("smoke", 300),):
            make.train(store, make.cell("base", seed, budget, "mambairv2-light"), 30.0 + seed / 10)
            make.train(store, make.cell("sgn-off", seed, budget, "mambairv2-light", sgn="off"), 29.0 + seed / 9.9)
    found = judged(Evidence(store), "components")
    assert found.level == claims.OPEN and "only at the budget smoke (1 worse)" in found.verdict
    for seed in (0, 1, 2):
        make.train(store, make.cell("base", seed, Budget("paper", 250_000), "mambairv2-light"), 30.0 + seed / 10)
        variant = make.cell("sgn-off", seed, Budget("paper", 250_000), "mambairv2-light", sgn="off")
        make.train(store, variant, 29.0 + seed / 9.9)
    found = judged(Evidence(store), "components")
    assert (found.level, found.verdict) == (claims.HOLDS, "confirmed in 1, contradicted in 0 of 1")


def test_what_weights_do_without_is_not_used(store, monkeypatch):
    def rows(*told):
        keys = ("dataset", "difference", "low", "high", "verdict")
        common = dict.fromkeys(COLUMNS) | {"method": "prompts/zero", "task": "sr-x2", "metric": "psnr", "interval": "I"}
        common |= {"evidence": "weights 0 on a machine", "protocol": "official"}
        frame = pd.DataFrame([common | dict(zip(keys, each, strict=True)) for each in told])
        monkeypatch.setattr(claims.index, "tables", lambda _: {"interventions": frame})
        return judged(Evidence(store), "prompts-used")

    none = ("Set14", 0.001, -0.004, 0.006, "no effect within 0.01 dB")
    found = rows(none)
    assert (found.level, found.verdict) == (claims.FAILS, "not used: no effect within 0.01 dB on 1 of 1 sets")
    assert report.text_of(found.found) == "official weights with all prompts zero: +0.001 dB I on Set14 x2"
    assert rows(none, ("Set5", -0.004, -0.012, 0.004, "inconclusive")).level == claims.OPEN
    found = rows(none, ("Set5", -0.4, -0.5, -0.3, "costs"))
    assert (found.level, found.tables) == (claims.HOLDS, ["interventions"])
    assert rows(("Set5", None, None, None, "3 of 5 images")).level == claims.ABSENT
