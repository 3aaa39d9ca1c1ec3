"""Two machines and one picture: equal, both kept, or a contradiction that is named; in a store, an import, a table."""

import pandas as pd
import pytest

from results import export, measured, records
from results.agreement import limits, other_machines, pairs
from results.analyses import folder
from results.archive import import_into
from results.evidence import Evidence
from results.store import Store, StoreError
from tests.results.test_store import PROTOCOL, cell, finish, key, rows

CPU = {
    **{"device": "a processor", "device_type": "cpu", "backend": "cpu", "threads": 1, "commit": "c"},
    **{"command": "runner.py evaluate", "finished": "2026-01-01T00:00:00"},
}
GPU = {**CPU, "device": "a GPU", "device_type": "cuda", "backend": "triton"}
LIMIT = 0.5  # twice what is said to have been measured
PAIR = ("cpu on cpu", "triton on cuda")


@pytest.fixture(autouse=True)
def known(monkeypatch):
    found = limits.Measured("fp32", "gumbel", PAIR, 100, LIMIT / 2, 0.01)
    monkeypatch.setattr(
        limits, "MEASURED", (found, limits.Measured("fp32", "gumbel", ("cpu on cpu",) * 2, 9, 0.1, None))
    )


def store_of(root, machine, shift=0.0, images=("baby", "bird"), **protocol) -> Store:
    store = Store(root)
    store.add_evaluation(key(**protocol), rows(*images, shift=shift), machine, expected=2)
    return store


def test_limits_by_kind_precision_and_number_of_pairs():
    other = {**CPU, "commit": "d"}
    assert limits.between(CPU, dict(CPU), PROTOCOL) == limits.Limit(1e-6, 1e-6, "one machine and commit")
    assert limits.between(GPU, CPU, PROTOCOL).psnr == LIMIT
    assert limits.between(CPU, other, PROTOCOL).psnr == LIMIT  # nine pairs are too few: by any two kinds
    assert limits.between(CPU, other, PROTOCOL).ssim == limits.between(GPU, CPU, PROTOCOL).ssim == 0.02
    for protocol in ({**PROTOCOL, "precision": "bf16"}, {**PROTOCOL, "routing": "argmax"}):
        unknown = limits.between(GPU, CPU, protocol)
        assert unknown.psnr == unknown.ssim == 1e-6 and "no pairs were measured between cpu on cpu and" in unknown.why


@pytest.mark.parametrize("way", ["again", "import"])
def test_within_the_limit_both_are_kept_and_beyond_it_neither_is_believed(tmp_path, way):
    """Closed cases on both sides of the limit and of 1e-6, on another machine, another commit, and on the same."""

    def join(store: Store, machine, shift) -> str:
        if way == "import":
            report = import_into(store, store_of(tmp_path / f"theirs-{machine['device']}-{shift}", machine, shift).root)
            return "; ".join(report.conflicts)
        try:
            store.add_evaluation(key(), rows("baby", "bird", shift=shift), machine, expected=2)
        except StoreError as error:
            return str(error)
        return ""

    store = store_of(tmp_path / "ours", CPU)
    before = store.scores()
    assert join(store, CPU, 9e-7) == join(store, GPU, 9e-7) == "" and store.other_machines().empty  # they agree
    assert "Set5/baby has psnr 34 here, not 34.00002" in join(store, CPU, 2e-5)
    assert join(store, GPU, 0.499) == ""
    assert join(store, GPU, 0.499) == ""  # the same again: nothing new
    told = join(store, GPU, 0.501)
    assert "by a processor, commit c here, a GPU, commit c there; at most 0.5 apart: measured between cpu on" in told
    assert "Set5/baby has psnr 34.499 here, not 34.4" in join(store, GPU, 0.4)  # what that GPU itself said before
    pd.testing.assert_frame_equal(store.scores(), before)
    apart = store.other_machines().set_index(["device", "image"])["psnr"]
    assert apart.to_dict() == {("a GPU", "baby"): 34.499, ("a GPU", "bird"): 34.499}
    assert store.means()["psnr"].tolist() == [34.0] and store.evaluations()["problem"].isna().all()


def test_a_precision_of_which_nothing_was_measured_stays_exact(tmp_path):
    store = store_of(tmp_path, CPU, precision="bf16")
    with pytest.raises(StoreError, match="no pairs were measured between cpu on cpu and triton on cuda at bf16"):
        store.add_evaluation(key(precision="bf16"), rows("baby", shift=1e-5), GPU, expected=2)


@pytest.mark.parametrize("weights", ["w", "others"])
def test_a_cell_scored_on_two_machines(tmp_path, weights):
    """The same weights: both are kept. Others: 1e-6 as ever, for a training is no rounding."""
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    for store, machine, shift, hashed in ((ours, CPU, 0.0, "w"), (theirs, GPU, 0.25, weights)):
        finish(store, cell(), rows("baby", shift=shift), {"Set5": 1}, weights=hashed)
        (store.cell_folder(cell().config()) / "environment.json").write_text(pd.Series(machine).to_json())
    report = import_into(ours, theirs.root)
    assert report.ok == (weights == "w") and len(ours.other_machines()) == (weights == "w")
    assert ours.scores()["psnr"].tolist() == [34.0]
    assert report.ok or "other weights: Set5/baby has psnr 34 here, not 34.25" in report.conflicts[0]
    assert import_into(Store(tmp_path / "third"), ours.root).ok
    assert len(Store(tmp_path / "third").other_machines()) == len(ours.other_machines())


def test_what_two_machines_said_is_committed_and_read_by_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    monkeypatch.setattr(records, "now", iter(("2026-01-04", "2026-01-03")).__next__)
    export.export(store_of(tmp_path / "cpu", CPU), "cpu/first", "the command")
    both = store_of(tmp_path / "both", {**GPU, "finished": "2026-01-02"}, 0.1)
    both.add_evaluation(key(), rows("baby", "bird", shift=0.3), {**CPU, "commit": "d"}, expected=2)
    export.export(both, "a/second", "the command")
    found = measured.load()
    assert found.problems == [] and found.scores["psnr"].tolist() == [34.0, 34.0]  # measured first, exported last
    assert sorted(found.other_machines["psnr"]) == pytest.approx([34.1, 34.1, 34.3, 34.3])
    assert len(pairs.pairs()) == 6 and set(pairs.pairs()["kinds"]) == {PAIR, ("cpu on cpu", "cpu on cpu")}
    line = pairs.table(pairs.pairs()).set_index("kinds").loc[[PAIR]].iloc[0]
    assert (line["pairs"], line["equal"], line["psnr"]) == (4, 0, pytest.approx(0.2))

    for shift, problem in ((0.4, ""), (0.6, "the store and results/measured contradict each other: Set5/baby")):
        evidence = Evidence(store_of(tmp_path / f"store-{shift}", GPU, shift))
        assert evidence.means["psnr"].tolist() == [34.0 + shift]  # the store's, never mixed
        assert problem in "; ".join(evidence.problems) and bool(evidence.problems) == bool(problem)
        assert len(evidence.other_machines) == (6 if not problem else 4)


def test_the_limits_are_those_of_the_committed_records(monkeypatch):
    """What is said to be the largest difference is there, and nothing that is committed since is further apart than is
    allowed."""
    monkeypatch.undo()
    found = pairs.table(pairs.pairs()).set_index(["precision", "routing", "kinds"])
    for one in limits.MEASURED:
        row = found.loc[[(one.precision, one.routing, one.kinds)]].iloc[0]
        assert one.pairs <= row["pairs"] and one.psnr <= pairs.rounded_up(row["psnr"])
        assert one.ssim is None or one.ssim <= pairs.rounded_up(row["ssim"])
    for (precision, routing, kinds), row in found.iterrows():
        if found.loc[(precision, routing), "pairs"].sum() >= limits.ENOUGH:
            limit = limits.of(precision, routing, kinds)
            assert row["psnr"] <= limit.psnr and not row["ssim"] > limit.ssim, (precision, routing, kinds)
    rounded = [pairs.rounded_up(value) for value in (0.0, 0.00031, 0.0003101, 0.0099, 0.00991)]
    assert rounded == [0, 0.00031, 0.00032, 0.0099, 0.01]


@pytest.mark.parametrize(
    ("change", "away", "told"),
    [
        ("scan/off", 0.49, ""),
        ("scan/off", 0.51, "at most 0.5 apart"),
        ("routing/argmax", 0.49, "no pairs were measured"),
    ],
)
def test_a_psnr_of_an_analysis_goes_by_the_limit_of_what_was_asked(tmp_path, change, away, told):
    """Ours stays; an intervention that routes without noise has the limit of that routing."""
    stores = []
    for name, machine, shift in (("ours", CPU, 0.0), ("theirs", GPU, away)):
        found = pd.DataFrame({"image": ["baby", "bird"], "pixels": "p", "seed": [0, 1], "psnr": [30.0, 31.0 + shift]})
        where = {"model": "m", "overrides": {}, "weights": "w", "task": "sr-x2", "dataset": "Set5"}
        asked = folder.key("interventions", {"intervention": change}, protocol=PROTOCOL, **where)
        about = {"expected": 5, "question": "?", "columns": {"psnr": "dB"}}
        stores.append(Store(tmp_path / name))
        folder.add(stores[-1].root, asked, found, machine, **about)
    report = import_into(stores[0], stores[1].root)
    assert folder.read(folder.place(stores[0].root, asked)).rows["psnr"].tolist() == [30.0, 31.0]
    assert report.ok == (not told) and told in "; ".join(report.conflicts)
    assert report.ok or "Set5/bird (seed 1) has psnr 31 here, not 31." in report.conflicts[0]


def test_damage_of_what_other_machines_said_is_named(tmp_path):
    store = store_of(tmp_path, CPU)
    store.add_evaluation(key(), rows("baby", shift=0.1), GPU, expected=2)
    path = store.evaluation_folder(key()) / other_machines.NAME
    path.write_bytes(path.read_bytes()[:-50])
    assert "other_machines.parquet cannot be read" in store.evaluations()["problem"].iloc[0]
