"""The table of changes: differences paired by image and seed against numbers worked out by hand, and the verdicts."""

import numpy as np
import pandas as pd
import pytest

from reports.figures import interventions as figures
from reports.statistics.intervals import Interval
from reports.statistics.verdicts import of_change
from reports.tables import index, render
from reports.tables.analyses import changes
from reports.tables.analyses.interventions import compare, differences, to_json
from results import export as exporting
from results import measured
from results.analyses import every, folder, load
from results.evidence import Evidence
from results.records import StoreError
from results.store import Store
from suites.spec import Protocol
from tests.reports.synthetic import MACHINE, SR, WEIGHTS

ASKED = {"command": "runner.py analyse interventions", "started": "2026-01-01T00:00:00", "file": "x2.pth"}


def ask(store: Store, name: str, question: str, psnr: np.ndarray, seeds=(0, 1), dataset="Set5", expected=5, **more):
    """Files PSNR [images, seeds] of an intervention."""
    parameters = {"intervention": name, "question": question, "origin": "catalogue"}
    where = {"model": "mambairv2-light", "overrides": {"upscale": 2}, "weights": WEIGHTS, "task": SR.name}
    key = folder.key("interventions", parameters, dataset=dataset, protocol=Protocol.official(SR).to_dict(), **where)
    rows = [
        {"image": f"i{i}", "pixels": f"p{i}", "seed": seed, "psnr": value}
        for i, own in enumerate(psnr)
        for seed, value in zip(seeds, own, strict=True)
    ]
    machine = {**MACHINE, **ASKED, **more}
    about = {"expected": expected, "question": f"what {name} does", "columns": {"psnr": "dB"}}
    folder.add(store.root, key, pd.DataFrame(rows), machine, **about)


BASE = 30 + np.arange(10.0).reshape(5, 2)  # [images, seeds]


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")  # nothing is committed there
    made = Store(tmp_path / "store")
    ask(made, "unchanged", "unchanged", BASE)
    noise = np.array([-2, -1, 0, 1, 2])[:, None] * 1e-3
    ask(made, "prompts/zero", "prompts", BASE - 0.5 + noise)
    ask(made, "prompts/mean", "prompts", BASE + noise)
    ask(made, "prompts/times-2", "prompts", BASE + 0.01 + 20 * noise)
    ask(made, "routing/argmax", "routing", BASE.mean(1, keepdims=True) + 0.2 + noise, seeds=(None,))
    ask(made, "order/raster", "order", BASE[:3], expected=5)
    return made


def test_differences_are_paired_by_image_and_seed(store):
    found = compare(load(store.root, measured=store.root)[0]).set_index("intervention")
    assert list(found["verdict"][["unchanged", "prompts/zero", "prompts/mean"]]) == [
        "base",
        "costs",
        "no effect within 0.01 dB",
    ]
    assert list(found["verdict"][["prompts/times-2", "routing/argmax"]]) == ["inconclusive", "gains"]
    zero = found.loc["prompts/zero"]
    assert zero["median"] == pytest.approx(-0.5) and zero["worse"] == 5 and found.loc["prompts/mean", "worse"] == 2
    half = 2.7764451 * np.sqrt(2.5e-6 / 5)  # t(0.975, 4) times the standard error of -2 ... 2 thousandths
    assert zero["difference"] == pytest.approx(-0.5) and zero["high"] - zero["low"] == pytest.approx(2 * half, rel=1e-5)
    assert (
        found.loc["routing/argmax", "difference"] == pytest.approx(0.2) and found.loc["routing/argmax", "seeds"] == []
    )
    assert found.loc["unchanged", "psnr"] == pytest.approx(BASE.mean()) and zero["seeds"] == [0, 1]
    raster = found.loc["order/raster"]
    assert raster["verdict"] == "3 of 5 images" and raster["psnr"] is None and raster["difference"] is None


def test_two_machines_do_not_meet_in_one_difference(store, tmp_path):
    """What another machine measured is compared with what it knows of the unchanged network, or with nothing."""
    ask(store, "prompts/times-10", "prompts", BASE - 0.1, device="another GPU", commit="b" * 40)
    found = compare(load(store.root)[0]).set_index("intervention")
    assert " and " not in "".join(found["machines"])
    assert found.loc["prompts/times-10", "verdict"] == "no base of the same machine"
    assert found.loc["prompts/times-10", "machines"] == "another GPU, commit bbbbbbbb"
    other = Store(tmp_path / "other")
    ask(other, "unchanged", "unchanged", BASE + 7, device="another GPU", commit="c" * 40)
    both = [record for root in (store.root, other.root) for record in every(root)[0]]
    found = compare(both).set_index("intervention")
    assert found.loc["prompts/times-10", "difference"] == pytest.approx(-7.1)
    assert found.loc["prompts/times-10", "machines"] == "another GPU, commit bbbbbbbb and another GPU, commit cccccccc"
    assert found.loc["prompts/zero", "difference"] == pytest.approx(-0.5) and len(found) == 7


def test_of_two_bases_of_one_machine_that_of_the_same_commit_is_taken(store, tmp_path):
    other = Store(tmp_path / "other")
    ask(other, "unchanged", "unchanged", BASE + 7, commit="c" * 40)
    ask(other, "order/columns", "order", BASE - 1, commit="c" * 40)
    both = [record for root in (store.root, other.root) for record in every(root)[0]]
    found = compare(both).set_index("intervention")["difference"]
    assert found["order/columns"] == pytest.approx(-8) and found["prompts/zero"] == pytest.approx(-0.5)


def test_more_seeds_of_one_machine_come_before_another_machine_of_one_commit(store, tmp_path):
    """As where a base was asked for more seeds later: its old ones are there still."""
    other, elsewhere = Store(tmp_path / "other"), {"seeds": (0,), "device": "another GPU", "commit": "b" * 40}
    ask(other, "unchanged", "unchanged", BASE[:, :1], **elsewhere)
    ask(other, "prompts/zero", "prompts", BASE[:, :1] + 3, **elsewhere)
    ask(store, "unchanged", "unchanged", BASE[:, :1], seeds=(2,), commit="c" * 40)
    both = [record for root in (other.root, store.root) for record in every(root)[0]]
    found = compare(both).set_index("intervention").loc["prompts/zero"]
    assert found["difference"] == pytest.approx(-0.5) and found["seeds"] == [0, 1]


def test_a_seed_that_one_lacks_is_no_pair():
    base = pd.DataFrame({0: [1.0, 2.0], 1: [5.0, 7.0]}, index=["a", "b"])
    assert list(differences(pd.DataFrame({1: [6.0, 7.0], 2: [0.0, 0.0]}, index=["a", "b"]), base)) == [1.0, 0.0]
    assert differences(pd.DataFrame({2: [6.0, 7.0]}, index=["a", "b"]), base).isna().all()
    assert list(differences(pd.DataFrame({-1: [3.0, 4.5]}, index=["a", "b"]), base)) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("mean", "half", "p", "verdict"),
    [
        (0.004, 0.005, 0.001, "no effect within 0.01 dB"),  # certain, and too small to matter
        (0.008, 0.005, 0.001, "gains"),
        (-0.2, 0.1, 0.01, "costs"),
        (-0.2, 0.1, 0.06, "inconclusive"),  # Holm's p, not the interval of one row
        (0.0, 0.02, 1.0, "inconclusive"),
    ],
)
def test_verdicts_of_changes(mean, half, p, verdict):
    assert of_change(Interval(mean, mean - half, mean + half, 5, 4), p) == verdict


def test_one_image_has_no_interval_and_no_verdict():
    assert of_change(Interval(-3.0, None, None, 1), None) == "inconclusive"


@pytest.fixture
def seeded(store) -> Store:
    """Two seeds of layer 1's scan: pictures 0.1 dB apart from one to the next, seeds 0.2 dB from each other."""
    pictures, own = 0.1 * np.arange(5)[:, None], np.array([[-0.1, 0.1]])
    ask(store, "layer-01/scan-off", "layers: scan-off", BASE - 0.7 + pictures + own)
    ask(store, "layer-00/scan-off", "layers: scan-off", BASE - 3.0 + pictures, dataset="Set14")  # without a base there
    return store


def test_how_much_seeds_scatter_beside_pictures(seeded):
    found = compare(load(seeded.root, measured=seeded.root)[0]).set_index("intervention")
    row = found.loc["layer-01/scan-off"]
    assert row["noise"] == pytest.approx(0.2 / 2**0.5) and row["scatter"] == pytest.approx(0.1 * 2.5**0.5)
    assert found.loc["prompts/zero", "noise"] == pytest.approx(0, abs=1e-9)  # both seeds differ alike
    assert found.loc["routing/argmax", "noise"] is None  # nothing is drawn


def test_documents_show_every_change_by_set_and_what_seeds_are_worth(seeded):
    frame = compare(load(seeded.root, measured=seeded.root)[0]).assign(network="official x2")
    prompts = " ".join(changes.changes(frame, "prompts").split())
    assert "`prompts/zero`: what prompts/zero does | official x2 | **-0.500** [-0.502, -0.498] 100 % |" in prompts
    assert "0.000 = [-0.002, +0.002] 40 % |" in prompts and "+0.010 [" in prompts
    assert "| 3 of 5 images |" in changes.changes(frame, "order")
    layers = " ".join(changes.layers(frame).split())
    assert "| `scan-off` | official x2, Set5 | 1 | 0 | 0 | 1 | 1: **-0.500** [" in layers
    few = frame[frame["intervention"].isin(["layer-01/scan-off", "prompts/mean"])]
    share = (0.02 / 2) / 0.025  # of the seeds in the variance of a picture's difference
    narrower = 100 * (1 - np.sqrt(1 - share * (1 - 2 / 5)))
    assert changes.seeds(few).splitlines()[-1].endswith(f" {narrower:.1f} % |")


def test_what_is_lost_at_once_stands_over_what_is_left_after_training_on(store):
    frame = compare(load(store.root, measured=store.root)[0]).assign(network="official x2")
    row = {"task": SR.name, "metric": "psnr", "dataset": "Set5", "interval": "[-0.004, 0.002] n=3", "verdict": "worse"}
    rows = [
        row | {"method": "no prompts", "difference": -0.001, "low": -0.004, "high": 0.002, "verdict": "inconclusive"},
        row | {"method": "plain scan", "difference": -0.5, "low": -0.6, "high": -0.4, "interval": "[-0.6, -0.4] n=3"},
        row | {"method": "no memory", "difference": -0.008, "low": -0.01, "high": -0.005},  # certain, and that small
    ]
    made = [" ".join(line.split()) for line in changes.recovery(frame, pd.DataFrame(rows)).splitlines()[2:]]
    assert made[0].startswith("| no prompts, official x2 | at once | **-0.500** [-0.502, -0.498] 100 % |")
    assert made[1].startswith("| | trained on | -0.001 = [-0.004, 0.002] n=3 |")
    assert made[2].startswith("| plain scan, official x2 | trained on | **-0.500** [-0.6, -0.4] n=3 |")
    assert made[3].startswith("| no memory, official x2 | trained on | **-0.008** = [")


def test_json_has_a_row_per_change_and_per_image(store, tmp_path):
    records = load(store.root, measured=tmp_path / "none")[0]
    made = to_json(compare(records), records)
    keys = ["intervention", "question", "dataset", "psnr", "difference", "low", "high", "verdict", "images", "seeds"]
    keys += ["median", "worse"]
    assert list(made["rows"][0]) == keys and len(made["rows"]) == 6
    argmax = [row for row in made["images"] if row["intervention"] == "routing/argmax"]
    assert [row["seed"] for row in argmax] == [None] * 5 and len(made["images"]) == 4 * 10 + 5 + 6


def test_the_table_shows_questions_with_verdicts(store, tmp_path):
    evidence = Evidence(store, tmp_path / "none")
    assert "interventions" in index.names(evidence)
    frame = index.table("interventions", evidence)
    text = render.render_all([(frame, index.caption("interventions"))], "md", contents=False)
    assert "x2.pth" in text and "-0.500 [-0.502, -0.498] 5 *" in text and "3 of 5 images" in text
    assert "0.000 [-0.002, +0.002] 2 =" in text


def test_what_is_exported_is_read_as_it_was(store, tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    lines = exporting.export(store, "here/x2", "runner.py export")
    assert len(lines) == 1 and (tmp_path / "measured" / "here" / "x2.analyses.json").exists()
    records, problems = load(tmp_path / "empty")
    assert not problems
    pd.testing.assert_frame_equal(compare(records), compare(load(store.root, measured=store.root)[0]), rtol=1e-6)


def test_what_does_not_say_how_it_was_measured_is_not_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    store = Store(tmp_path / "store")
    ask(store, "unchanged", "unchanged", BASE, command=None)
    with pytest.raises(StoreError, match="does not say its command"):
        exporting.export(store, "here/x2", "runner.py export")
    assert not (tmp_path / "measured").exists()


def test_figures_leave_five_pictures_out_where_more_were_asked(monkeypatch):
    frame = pd.DataFrame(
        [
            {"model": "m", "task": "sr-x2", "weights": "w", "intervention": change, "dataset": dataset}
            for change, dataset in (("one", "Set5"), ("one", "Set14"), ("other", "Set5"))
        ]
    ).assign(low=-1.0, question="prompts", file="f")
    monkeypatch.setattr(figures, "compared", lambda evidence: frame)
    found = figures._found(None, lambda frame: frame["question"] == "prompts")
    assert found[["intervention", "dataset"]].values.tolist() == [["one", "Set14"], ["other", "Set5"]]


def test_figures_show_what_there_is(store, tmp_path):
    ask(store, "layer-03/assm-off", "layers: assm-off", BASE - 1)
    ask(store, "layer-04/assm-off", "layers: assm-off", BASE - 0.1)
    ask(store, "memory/sorted-16", "memory", BASE - 1)
    ask(store, "memory/raster-16", "memory in raster order", BASE - 0.1)
    evidence = Evidence(store, tmp_path / "none")
    for name in ("changes", "layers", "memory"):
        path = tmp_path / f"{name}.png"
        getattr(figures, f"draw_{name}")(path, evidence)
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StoreError, match="no whole set"):
        figures.draw_changes(tmp_path / "none.png", Evidence(Store(tmp_path / "nothing"), tmp_path / "none"))
