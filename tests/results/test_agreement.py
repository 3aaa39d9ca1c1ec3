"""Two machines and one picture: equal, both kept, or a contradiction that is named; in a store, an import, a table."""

import pandas as pd
import pytest

from results import export, measured, records
from results.agreement import limits, other_machines, pairs, rule
from results.analyses import folder
from results.archive import import_into
from results.evidence import Evidence
from results.store import Store, StoreError
from suites.execution.verification import Verification
from tests.results.test_store import PROTOCOL, cell, finish, key, rows

CPU = {
    **{"device": "a processor", "device_type": "cpu", "backend": "cpu", "threads": 1, "commit": "c"},
    **{"command": "runner.py evaluate", "finished": "2026-01-01T00:00:00"},
}
GPU = {**CPU, "device": "a GPU", "device_type": "cuda", "backend": "triton"}
LIMIT = 0.5  # twice what is said to have been measured
PAIR = ("cpu on cpu", "triton on cuda")


def found(kinds, devices, pairs, psnr, ssim) -> limits.Measured:
    of = {"models": ("m",), "tasks": ("sr-x2", "sr-x4"), "datasets": ("Set5",)}
    digits = {"equal": 0, "median": 0.0, "most": psnr, "psnr": psnr, "with_ssim": pairs if ssim else 0, "ssim": ssim}
    return limits.Measured("fp32", "gumbel", kinds, devices, pairs, **digits, **of)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    rows = (
        found(PAIR, ("a processor", "a GPU"), 60, LIMIT / 2, 0.01),
        found(PAIR, ("a processor", "another GPU"), 40, LIMIT / 4, None),
        found(("cpu on cpu",) * 2, ("a processor",) * 2, 9, 0.1, None),
        found(("triton on cuda",) * 2, ("a GPU",) * 2, 100, 0.05, None),
    )
    monkeypatch.setattr(limits, "measured", lambda: rows)


def store_of(root, machine, shift=0.0, images=("baby", "bird"), **protocol) -> Store:
    store = Store(root)
    store.add_evaluation(key(**protocol), rows(*images, shift=shift), machine, expected=2)
    return store


def test_limits_by_kind_precision_and_number_of_pairs():
    """Of kinds with enough pairs, else of any two; two commits on one model of GPU say nothing of two models."""
    other, all_of = {**CPU, "commit": "d"}, "; all of m, sr-x2 and sr-x4"
    assert limits.between(CPU, dict(CPU), PROTOCOL).psnr == 1e-6
    assert limits.between(GPU, CPU, PROTOCOL) == limits.between(CPU, GPU, PROTOCOL)
    limit = limits.between(GPU, CPU, PROTOCOL)
    measured = "100 pairs measured between cpu on cpu and triton on cuda, two devices, at fp32, routing gumbel"
    assert (limit.psnr, limit.why) == (LIMIT, f"2 times the largest of {measured}{all_of}")
    limit = limits.between(CPU, other, PROTOCOL)
    few = "209 pairs measured between any two at fp32, routing gumbel, 9 of them between cpu on cpu and cpu on cpu"
    assert (limit.psnr, limit.why) == (LIMIT, f"2 times the largest of {few}, one model of device{all_of}")
    assert limits.between(GPU, {**GPU, "commit": "d"}, PROTOCOL).psnr == 0.1
    limit = limits.between(GPU, {**GPU, "device": "another GPU"}, PROTOCOL)
    assert limit.psnr == LIMIT and "none of them between triton on cuda and triton on cuda, two devices" in limit.why
    assert limits.between(CPU, other, PROTOCOL).ssim == limits.between(GPU, CPU, PROTOCOL).ssim == 0.02
    for protocol in ({**PROTOCOL, "precision": "bf16"}, {**PROTOCOL, "routing": "argmax"}):
        unknown = limits.between(GPU, CPU, protocol)
        assert unknown.psnr == unknown.ssim == 1e-6 and "no pairs of machines were measured at" in unknown.why


def test_another_version_of_pytorch_or_triton_is_another_machine():
    one = other_machines.machine_of({**CPU, "versions": {"torch": "2.11.0", "triton": "3.6.0"}})
    for name in ("torch", "triton"):
        assert not limits.same(one, {**one, name: "9"}) and limits.same(one, dict(one))
        with_another = pd.DataFrame([{"dataset": "Set5", "image": "baby", "pixels": "p", "psnr": 30.0, **one}])
        told = rule.compare(with_another, with_another.assign(**{name: "9", "psnr": 31.0}), PROTOCOL).conflicts
        assert "(by cpu on a processor, torch 2.11.0, triton 3.6.0, commit c here, cpu on a processor, torch" in told[0]


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
    assert "(by cpu on a processor, commit c here, triton on a GPU, commit c there; at most 0.5 apart: 2 times" in told
    assert "Set5/baby has psnr 34.499 here, not 34.4" in join(store, GPU, 0.4)  # what that GPU itself said before
    pd.testing.assert_frame_equal(store.scores(), before)
    apart = store.other_machines().set_index(["device", "image"])["psnr"]
    assert apart.to_dict() == {("a GPU", "baby"): 34.499, ("a GPU", "bird"): 34.499}
    assert store.means()["psnr"].tolist() == [34.0] and store.evaluations()["problem"].isna().all()


def test_a_precision_of_which_nothing_was_measured_stays_exact(tmp_path):
    store = store_of(tmp_path, CPU, precision="bf16")
    with pytest.raises(StoreError, match="no pairs of machines were measured at bf16, routing gumbel"):
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
    line = next(one for one in pairs.table(pairs.pairs()) if one.kinds == PAIR)
    assert (line.pairs, line.equal, line.psnr) == (4, 0, pytest.approx(0.2))
    assert (line.devices, line.tasks, line.datasets) == (("a processor", "a GPU"), ("sr-x2",), ("Set5",))

    for shift, problem in ((0.4, ""), (0.6, "the store and results/measured contradict each other: Set5/baby")):
        evidence = Evidence(store_of(tmp_path / f"store-{shift}", GPU, shift))
        assert evidence.means["psnr"].tolist() == [34.0 + shift]  # the store's, never mixed
        assert problem in "; ".join(evidence.problems) and bool(evidence.problems) == bool(problem)
        assert len(evidence.other_machines) == (6 if not problem else 4)


def test_the_file_that_limits_go_by_is_what_is_committed(monkeypatch, tmp_path):
    monkeypatch.undo()
    said, now = limits.measured(), pairs.table(pairs.pairs())
    mend = "runner.py tables --documents writes results/measured/agreement.json anew"
    assert len(said) == len(now), mend
    for one, other in zip(said, now, strict=True):
        for name, value in vars(other).items():
            close = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
            assert getattr(one, name) == close, (one, name, mend)
    for one in said:  # nothing that is committed is further apart than is allowed
        limit = limits.of(one.precision, one.routing, one.kinds, one_model=len(set(one.devices)) == 1)
        assert one.psnr <= limit.psnr and (one.ssim or 0) <= limit.ssim

    monkeypatch.setattr(limits, "FILE", tmp_path / "agreement.json")
    limits.measured.cache_clear()
    for content in (None, "{", '{"rows": [{"precision": "fp32"}]}', "[]"):
        if content:
            limits.FILE.write_text(content)
        with pytest.raises(StoreError, match="tables --documents` writes it"):
            limits.measured()


def test_verify_takes_what_the_limit_allows_unless_it_must_be_exact():
    limit = limits.between(GPU, CPU, PROTOCOL)
    for away, weights, exact, ok in (
        *((0.0, True, False, True), (0.0, True, True, True), (LIMIT, True, False, True)),
        *((LIMIT, True, True, False), (LIMIT * 1.01, True, False, False), (0.0, False, False, False)),
    ):
        found = Verification("a", "0", weights, {"Set5": away}, [], limit, exact)
        assert found.ok == ok, found
    within = Verification("a", "0", True, {"Set5": LIMIT}, [], limit)
    assert limit.why in within.lines()[0] and "all of m, sr-x2 and sr-x4" in limit.why
    one = limits.between(CPU, dict(CPU), PROTOCOL)
    assert not Verification("a", "0", True, {"Set5": 1e-9}, [], one).ok


def test_rounding_up():
    rounded = [limits.rounded_up(value) for value in (0.0, 0.00031, 0.0003101, 0.0099, 0.00991)]
    assert rounded == [0, 0.00031, 0.00032, 0.0099, 0.01]


@pytest.mark.parametrize(
    ("change", "away", "told"),
    [
        ("scan/off", 0.49, ""),
        ("scan/off", 0.51, "at most 0.5 apart"),
        ("routing/argmax", 0.49, "no pairs of machines were measured"),
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
