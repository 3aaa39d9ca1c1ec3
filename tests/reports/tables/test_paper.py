"""Tables from stores whose expected numbers are known: matching, verdicts, blanks with their reasons."""

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import models
import runner
from reports.tables import index, render
from reports.tables.blocks import blocks
from reports.tables.rows import COLUMNS
from results import export, published
from results.evidence import Evidence
from results.store import Store
from suites.spec import Budget


def row(frame, metric: str = "psnr", dataset: str = "Set5", method: str = "MambaIRv2-light", task: str = "sr-x2"):
    found = frame[
        (frame["metric"] == metric)
        & (frame["dataset"] == dataset)
        & (frame["method"] == method)
        & (frame["task"] == task)
    ]
    assert len(found) == 1
    return found.iloc[0]


def test_names_are_the_published_tables_then_the_budgets(store, make):
    published = index.names(Evidence(store))
    assert published[:2] == ["table3", "table4"] and index.names(Evidence(store)) == published
    make.train(store, make.cell("base", 0), 30.0)
    assert index.names(Evidence(store)) == [*published, "smoke"]
    with pytest.raises(
        index.TableError, match=r"unknown table 'table9': did you mean .*\? choose from table3, .*smoke"
    ):
        index.table("table9", Evidence(store))
    nearest = {"Table3": "table3", "tabel3": r"table3\?", "complexty": "complexity", "claimz": "claims"}
    for wrong, near in nearest.items():
        with pytest.raises(index.TableError, match=f"unknown table '{wrong}': did you mean {near}"):
            index.table(wrong, Evidence(store))
    with pytest.raises(index.TableError, match=r"no cell of the budget 'reduced' is stored yet: runner\.py run"):
        index.table("reduced", Evidence(store))


NO_WEIGHTS = "not run: no weights scored by this protocol"
BAD = {
    "no-column.csv": (lambda text: text.replace(",note\n", "\n", 1), "lacks the column 'note'"),
    "no-number.csv": (lambda text: text.replace(",38.26,", ",38;26,"), "column value: '38;26' is not a number"),
    "twice.csv": (lambda text: text + text.splitlines()[-1] + "\n", "repeats the cell of line"),
}


def test_what_is_committed_is_enough(store, make, nothing_committed, tmp_path):
    """A clone without a store of its own shows the committed scores, with machine and commit."""
    for seed, score in enumerate((38.254, 38.258, 38.260)):
        make.evaluate(store, score, seed=seed)
    make.evaluate(store, 33.2, dataset="Urban100", images=50, of=100)
    make.train(store, make.cell("base", 0), 30.0)
    known = {"command": "sh call.sh", "finished": "2026-01-01"}
    export.export(store, "h200/official", "the command", known)
    clone = Evidence(Store(tmp_path / "not there"))
    assert index.problems(clone) == [] and index.names(clone)[-1] == "smoke"
    found = row(index.table("table3", clone))
    assert found["measured"] == pytest.approx(38.2573333) and found["verdict"] == "reproduced"
    assert found["evidence"] == "weights 01234567, Gumbel seeds 0, 1, 2; a machine, commit abc"
    assert row(index.table("table3", clone), dataset="Urban100")["verdict"] == "50 of 100 images"
    assert row(index.table("smoke", clone), "params", "embedded", "base")["measured"] == 1000
    frame = index.table("table3", Evidence(store))
    wanted = index.table("table3", clone).drop(columns="made_by")  # a store and a commit are different places
    pd.testing.assert_frame_equal(frame.drop(columns="made_by"), wanted)


def test_another_papers_table_is_a_file_and_bad_files_are_a_line_each(store, make, tmp_path, monkeypatch, capsys):
    """The command prints every good table whole; each file that cannot be used is one line on stderr."""
    folder = tmp_path / "published"
    shutil.copytree(published.FOLDER, folder)
    text = (folder / "table3.csv").read_text()
    for name, (damage, _) in BAD.items():
        (folder / name).write_text(damage(text.replace("table3,", "copy,")))
    columns = ",".join(published.COLUMNS)
    ours = "theirs,OurNet,mambairv2-light,,sr-x2,,,Set5,,psnr,38.30,primary,p. 7,\n"
    other = "theirs,Rival,,,sr-x2,,,Set5,,psnr,38.20,primary,p. 7,\n"
    (folder / "theirs.csv").write_text(f"# Another paper\n{columns}\n{ours}{other}")
    monkeypatch.setattr(published, "FOLDER", folder)
    make.evaluate(store, 38.2577)
    runner.tables(["theirs", "table3"], results=store.root)
    printed = capsys.readouterr()
    assert "## theirs\n\nAnother paper\n" in printed.out and "| OurNet | 38.30 |" in printed.out
    assert "| Set5 PSNR |     38.30 |   38.258 |     -0.042 |        1 seed | differs |" in printed.out
    assert "| Set5 PSNR     |     38.26 |   38.258 |     -0.002 |        1 seed | reproduced |" in printed.out
    lines = printed.err.splitlines()
    assert len(lines) == len(BAD)
    for line, (name, (_, message)) in zip(lines, BAD.items(), strict=True):
        assert line.startswith(f"left out: {name}, line ") and message in line
    with pytest.raises(index.TableError, match=r"unknown table 'copy': .*; left out: no-column\.csv, line "):
        index.table("copy", Evidence(store))


def test_empty_store_keeps_every_published_cell_and_says_why_the_rest_is_blank(store):
    for name in index.names(Evidence(store)):
        frame = index.table(name, Evidence(store))
        assert list(frame.columns) == list(COLUMNS) and len(frame)
        assert frame["verdict"].notna().all() and (frame["verdict"] != "").all()
    frame = index.table("table3", Evidence(store))
    assert row(frame)["published"] == "38.26" and row(frame)["verdict"] == NO_WEIGHTS and row(frame)["measured"] is None
    assert row(frame, method="SwinIR-light")["verdict"] == "published only"
    ablation = index.table("ablation-components", Evidence(store))
    assert set(ablation["verdict"]) == {"no weights released, not trained here"}
    assert set(index.table("tableA2", Evidence(store))["verdict"]) == {"no published counterpart"}


def test_counts_of_ours_are_neither_published_nor_reproduced(store):
    frame = index.table("complexity", Evidence(store))
    assert set(frame["provenance"]) == {"computed"} and set(frame["verdict"]) == {"counts agree"}
    text = render.render_all([(frame, index.caption("complexity"))], "md")
    assert "as published" not in text and "reproduced" not in text and "published and measured" not in text
    assert "sr-x2, as computed: MACs" in text and "| quantity       | computed | counted |" in text


def test_counts_stand_beside_the_printed_digits(store):
    frame = index.table("table3", Evidence(store))
    params, macs = (row(frame, metric, dataset="") for metric in ("params", "macs"))
    assert (params["published"], params["measured"], params["difference"]) == ("774K", 774_092, 92)
    assert (params["verdict"], macs["verdict"]) == ("reproduced", "reproduced")
    assert abs(macs["measured"] - 286_298_557_280) < 1e-4 * 286e9
    large = index.table("table4", Evidence(store))
    large = row(large, "params", dataset="", method="MambaIRv2-L")
    assert (large["published"], large["verdict"]) == ("34.2M", "differs")  # the code has 34.09M
    base = row(index.table("table5", Evidence(store)), "macs", dataset="", method="MambaIRv2-B")
    assert (base["published"], base["verdict"]) == ("445.8G", "reproduced")  # printed truncated


def test_one_seed_of_given_weights(store, make):
    make.evaluate(store, 38.2577, 0.96151)
    frame = index.table("table3", Evidence(store))
    psnr, ssim = row(frame), row(frame, "ssim")
    assert psnr["measured"] == pytest.approx(38.2577) and psnr["difference"] == pytest.approx(-0.0023)
    assert (psnr["interval"], psnr["low"], psnr["verdict"]) == ("1 seed", None, "reproduced")
    assert psnr["evidence"] == "weights 01234567, Gumbel seed 0; a machine, commit abc"
    assert "tiling official, routing gumbel" in psnr["protocol"]
    assert ssim["difference"] == pytest.approx(1e-5) and ssim["verdict"] == "reproduced"
    assert row(frame, dataset="Set14")["verdict"] == "not run: no score on this set"
    assert row(frame, task="sr-x3")["verdict"] == NO_WEIGHTS


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ((38.24, 38.279), "reproduced"),  # within the tolerance, whatever the interval
        ((38.285, 38.285), "differs"),
        ((38.30, 38.31, 38.30, 38.31), "differs"),
        ((38.20, 38.40), "inconclusive"),  # the interval covers the published score
    ],
)
def test_verdict_from_the_interval_over_gumbel_seeds(store, make, scores, verdict):
    for seed, score in enumerate(scores):
        make.evaluate(store, score, seed=seed)
    found = row(index.table("table3", Evidence(store)))
    assert found["verdict"] == verdict
    assert found["measured"] == pytest.approx(sum(scores) / len(scores))
    assert found["low"] <= found["difference"] <= found["high"] and f"n={len(scores)}" in found["interval"]


def test_only_the_official_protocol_and_network_are_held_against_the_paper(store, make):
    for change in (
        {"tiling": "none"},
        {"routing": "argmax"},
        {"samples": 8},
        {"precision": "bf16"},
        {"lr_route": "pil"},
    ):
        make.evaluate(store, 10.0, **change)
    make.evaluate(store, 10.0, labels="kmeans")
    make.evaluate(store, 10.0, model="mambairv2-base")
    frame = index.table("table3", Evidence(store))
    assert row(frame)["measured"] is None and row(frame)["verdict"] == NO_WEIGHTS
    assert row(index.table("table4", Evidence(store)), method="MambaIRv2-B")["verdict"] == "differs"


def test_mambair_has_no_routing_to_match(store, make):
    make.evaluate(store, 38.13, model="mambair-light", routing=None, prompt_order=None)
    assert row(index.table("table3", Evidence(store)), method="MambaIR-light")["verdict"] == "reproduced"


def test_other_tasks_are_matched_too(store, make):
    make.evaluate(store, 30.37, 0.8269, model="mambairv2-base", task="jpeg-10", dataset="Classic5")
    make.evaluate(store, 34.48, model="mambairv2-base", task="denoise-15", dataset="CBSD68", images=68, of=68)
    jpeg = row(index.table("table6", Evidence(store)), method="MambaIRv2", task="jpeg-10", dataset="Classic5")
    noise = row(index.table("table7", Evidence(store)), method="MambaIRv2", task="denoise-15", dataset="CBSD68")
    assert (jpeg["verdict"], noise["verdict"]) == ("reproduced", "reproduced")


def test_a_part_of_a_set_is_no_score(store, make):
    make.evaluate(store, 33.26, dataset="Urban100", images=12, of=100)
    make.evaluate(store, 34.09, dataset="Set14", images=3, of=3)  # whole, says the folder it was found in
    frame = index.table("table3", Evidence(store))
    assert row(frame, dataset="Urban100")["verdict"] == "12 of 100 images"
    assert row(frame, dataset="Set14")["verdict"] == "3 of 14 images"
    assert row(frame, dataset="Urban100")["measured"] is None


def test_two_weights_have_a_row_each(store, make):
    make.evaluate(store, 38.26)
    make.evaluate(store, 37.00, weights="f" * 64, file="again.pth", as_official=True)
    frame = index.table("table3", Evidence(store))
    found = frame[(frame["method"] == "MambaIRv2-light") & (frame["dataset"] == "Set5") & (frame["task"] == "sr-x2")]
    found = found[found["metric"] == "psnr"]
    assert list(found["evidence"].str.split(",").str[0]) == [
        "weights 01234567",
        "weights ffffffff (again.pth",
    ]
    assert "(again.pth, scored as official), Gumbel seed 0" in found["evidence"].iloc[1]
    assert list(found["verdict"]) == ["reproduced", "differs"]


def test_own_weights_are_compared_with_nothing_and_have_a_section_of_their_own(store, make):
    """Neither a row nor a verdict of the paper's network for a file that nobody published."""
    for seed in (0, 1):
        make.evaluate(store, 37.00, weights="f" * 64, file="mine.pth", seed=seed)
    make.evaluate(store, 30.00, weights="f" * 64, file="mine.pth", dataset="Urban100", images=50, of=100)
    make.evaluate(store, 36.00, weights="f" * 64, file="mine.pth", routing="argmax")  # another protocol
    frame = index.table("table3", Evidence(store))
    paper = row(frame)
    assert paper["measured"] is None and paper["verdict"] == "only weights that are not the published ones"
    own = row(frame, method="mine.pth")
    assert (own["measured"], own["published"], own["difference"]) == (pytest.approx(37.0), "", None)
    assert (own["verdict"], own["setting"], own["interval"]) == ("other weights", "weights ffffffff", "2 seeds")
    assert row(frame, dataset="Urban100", method="mine.pth")["verdict"] == "50 of 100 images"
    text = render.render(frame, "md", index.caption("table3"))
    section = text[text.index("### mine.pth, mambairv2-light, sr-x2: weights ffffffff, not the published ones") :]
    assert "| Set5 PSNR     |   37.000 |          2 seeds |" in section
    assert "`runner.py evaluate --as-official`" in section and "differs" not in section
    assert "mine.pth" not in text[: text.index("### mine.pth")]
    assert "mine.pth" not in render.render(index.table("table4", Evidence(store)), "md", "")  # of another network


def test_a_network_that_no_table_is_about_stands_in_all_of_its_task(store, make):
    make.evaluate(store, 37.00, model="mine.py:Net", weights="f" * 64, file="mine.pth")
    for name in ("table3", "table4"):
        own = row(index.table(name, Evidence(store)), method="mine.pth")
        assert (own["model"], own["measured"]) == ("mine.py:Net", pytest.approx(37.0))


def test_only_files_of_known_provenance_are_published_weights():
    for digest, told in published.official_weights().items():
        assert len(digest) == 64 and set(told) == {"file", "file_sha256", "model", "task", "source"}


def test_the_known_hashes_are_those_of_the_files(shared):
    for digest, told in published.official_weights().items():
        path = shared / "weights" / told["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == told["file_sha256"]
        assert models.weights_hash(path) == digest


def test_weights_of_a_smaller_budget_are_never_held_against_the_paper(store, make):
    make.train(store, make.cell("base", 0, model="mambairv2-light"), 38.26, weights=make.WEIGHTS)
    make.evaluate(store, 38.26, as_official=True)
    frame = index.table("table3", Evidence(store))
    found = row(frame)
    assert found["measured"] is None and found["verdict"] == "only weights of a smaller budget"
    assert row(frame, method="a file without a name")["note"] == "trained here at the smoke budget"


def test_trained_at_the_papers_budget_for_as_long(store, make):
    long, short = Budget("paper", 500_000), Budget("paper", 250_000)
    for seed, score in ((0, 38.25), (1, 38.27)):
        which = make.cell("base", seed, long, model="mambairv2-light")
        folder = make.train(store, make.on(which, "Set5"), score)
        store.write_status(folder, "done", step=500_000, expected={"Set5": 4}, weights=f"w{seed}")
    found = row(index.table("table3", Evidence(store)))
    assert found["verdict"] == "4 of 5 images" and found["budget"] == "paper"  # its folder lacked one picture
    ablation = make.on(make.cell("attention", 0, short, model="mambairv2-light", scans=0), "Urban100")
    make.train(store, ablation, 32.89)
    frame = index.table("ablation-components", Evidence(store))
    assert row(frame, dataset="Urban100", method="window attention only")["verdict"] == "4 of 100 images"
    assert row(frame, dataset="Urban100", method="+ ASE")["verdict"] == "no weights released, not trained here"


def test_released_weights_are_not_held_against_ablations(store, make):
    make.evaluate(store, 33.26, dataset="Urban100", images=100, of=100)
    frame = index.table("ablation-components", Evidence(store))
    assert row(frame, dataset="Urban100", method="+ ASE + SGN (base)")["measured"] is None
    assert row(index.table("table3", Evidence(store)), dataset="Urban100")["verdict"] == "reproduced"


def trained(store):
    frame = index.table("smoke", Evidence(store))
    assert set(frame["budget"]) == {"smoke"} and frame["published"].isna().all()
    return frame


def test_trained_variants_against_their_base(store, make):
    for seed, (base, better, close) in enumerate([(30.0, 31.00, 30.005), (30.4, 31.41, 30.400)]):
        make.train(store, make.cell("base", seed), base)
        make.train(store, make.cell("better", seed, sgn="off"), better, size=1200)
        make.train(store, make.cell("close", seed, ase="off"), close)
        make.train(store, make.cell("worse", seed, num_tokens=16), base - 1 - seed / 100)
    frame = trained(store)
    methods = [name for name, _ in frame.groupby("method", sort=False)]
    assert methods[0] == "base" and set(methods) == {"base", "better", "close", "worse"}
    args = {"dataset": "embedded"}
    base, better, close, worse = (row(frame, method=name, **args) for name in ("base", "better", "close", "worse"))
    assert base["measured"] == pytest.approx(30.2) and base["verdict"] == "base" and base["difference"] is None
    assert better["difference"] == pytest.approx(1.005) and better["verdict"] == "better"
    half = 12.706204736432095 * 0.005  # t(0.975, 1) * sd / sqrt(2), of differences 1.00 and 1.01
    assert (better["own_low"], better["own_high"]) == (pytest.approx(1.005 - half), pytest.approx(1.005 + half))
    gains = np.array([0.4, 0.41, 0.395, 0.39])  # from the first seed to the second: base, better, close, worse
    half = 3.182446305284263 * np.sqrt(gains.var(ddof=1) / 2)  # t(0.975, 3); sd(gains) = sqrt(2) sd(residual)
    assert (better["low"], better["high"]) == (pytest.approx(1.005 - half), pytest.approx(1.005 + half))
    assert better["df"] == 3 and better["mde"] is None and close["mde"] > half
    assert close["verdict"] == "inconclusive" and worse["verdict"] == "worse"
    assert row(frame, "params", method="better", **args)["measured"] == 1200
    assert better["evidence"] == "smoke budget, 300 iterations, seeds 0, 1; a machine, commit abc"
    assert better["overrides"] == "sgn=off"


def test_only_shared_seeds_are_paired(store, make):
    for seed, score in ((0, 30.0), (1, 31.0)):
        make.train(store, make.cell("base", seed), score)
    make.train(store, make.cell("one", 1, sgn="off"), 31.5)
    make.train(store, make.cell("other", 7, ase="off"), 31.5)
    frame = trained(store)
    one, other = (row(frame, method=name, dataset="embedded") for name in ("one", "other"))
    assert one["difference"] == pytest.approx(0.5) and (one["interval"], one["verdict"]) == ("1 seed", "inconclusive")
    assert other["difference"] is None and other["verdict"] == "no seed in common with the base"


def test_without_a_base_nothing_is_compared(store, make):
    for seed in (0, 1):
        make.train(store, make.cell("ase-off", seed, ase="off"), 30.0 + seed)
        make.train(store, make.cell("sgn-off", seed, sgn="off", num_tokens=4), 31.0 + seed / 2)
    frame = trained(store)
    scores = frame[frame["metric"].isin(("psnr", "ssim"))]
    assert set(scores["verdict"]) == {"no base"} and scores["difference"].isna().all() and len(scores) == 4
    assert row(frame, method="ase-off", dataset="embedded")["measured"] == pytest.approx(30.5)


def test_routing_that_nothing_trains_is_labelled(store, make):
    make.train(store, make.cell("base", 0), 30.0)
    make.train(store, make.cell("ase-off", 0, ase="off"), 30.0)
    make.train(store, make.cell("sgn-off", 0, sgn="off"), 30.0)
    make.train(store, make.cell("both-off", 0, ase="off", sgn="off"), 30.0)
    notes = trained(store).groupby("method")["note"].first()
    assert notes.to_dict() == {"base": "", "ase-off": "untrained routing", "sgn-off": "", "both-off": ""}


def test_cells_without_scores_say_why(store, make):
    make.train(store, make.cell("base", 0), 30.0)
    failed = store.open_cell(make.cell("failed", 0, sgn="off").config())
    store.write_status(failed, "failed", reason="the loss is not finite at step 17")
    store.open_cell(make.cell("planned", 0, ase="off").config())
    damaged = make.train(store, make.cell("damaged", 0, num_tokens=4), 30.0)
    (damaged / "scores.parquet").write_bytes(b"PAR1 cut off")
    frame = trained(store)
    found = {name: row(frame, method=name, dataset="embedded") for name in ("base", "failed", "planned", "damaged")}
    assert found["base"]["measured"] == pytest.approx(30.0)
    assert found["failed"]["verdict"] == "failed" and "the loss is not finite at step 17" in found["failed"]["note"]
    assert found["planned"]["verdict"] == "not run"
    assert found["damaged"]["measured"] is None and "scores.parquet" in found["damaged"]["note"]


def test_studies_are_not_mixed(store, make):
    """Another length of training is another study: its variants are compared with its own base."""
    long = Budget("smoke", 600)
    make.train(store, make.cell("base", 0), 30.0)
    make.train(store, make.cell("off", 0, sgn="off"), 30.5)
    make.train(store, make.cell("base", 0, long), 32.0)
    make.train(store, make.cell("off", 0, long, sgn="off"), 32.1)
    frame = trained(store)
    differences = frame[(frame["method"] == "off") & (frame["metric"] == "psnr")].set_index("evidence")["difference"]
    assert differences["smoke budget, 300 iterations, seeds 0; a machine, commit abc"] == pytest.approx(0.5)
    assert differences["smoke budget, 600 iterations, seeds 0; a machine, commit abc"] == pytest.approx(0.1)


def test_studies_of_a_table_have_headings_of_their_own(store, make):
    def headings() -> list[str]:
        return [block.heading for block in blocks(index.table("smoke", Evidence(store)))]

    make.train(store, make.cell("base", 0), 30.0)
    assert headings() == ["sr-x2 on embedded, smoke budget"]
    make.train(store, make.cell("base", 0, Budget("smoke", 300, batch=8, milestones=(100, 200))), 31.0)
    assert sorted(headings()) == [
        "sr-x2 on embedded, smoke budget (batch 32, milestones none)",
        "sr-x2 on embedded, smoke budget (batch 8, milestones 100+200)",
    ]
    which = make.cell("base", 0)
    make.train(store, replace(which, protocol=replace(which.protocol, samples=8)), 31.0)
    assert "sr-x2 on embedded, smoke budget (batch 32, milestones none, protocol samples 8)" in headings()
