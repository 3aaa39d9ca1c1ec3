"""What is committed: written from a store, read back to the same frames, and one line for each part that is damaged."""

import json
import lzma
import re

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from reports.charts import trajectory
from results import export, measured, records
from results.evidence import Evidence
from results.measured import SCORE_COLUMNS, StoreError
from results.store import Store

PROTOCOL = {
    **{"tiling": "official", "routing": "gumbel", "samples": 1, "seed": 0, "prompt_order": "raster"},
    **{"lr_route": "matlab", "luma": "float", "channels": "y", "border": 2, "precision": "fp32"},
}
MACHINE = {
    **{"device": "a machine", "device_type": "cpu", "backend": "chunked", "threads": 2, "commit": "abc"},
    **{"command": "runner.py evaluate ...", "finished": "2026-01-01T00:00:00"},
}
WEIGHTS = "0123456789abcdef" * 4


def rows(images: int, psnr: float = 38.0, dataset: str = "Set5") -> pd.DataFrame:
    names = ["NA", *(f"{number:03}" for number in range(1, images))]  # stems that look like something else stay text
    values = psnr + np.linspace(-1, 1, images) / 3  # digits that a short format would lose
    scores = {"psnr": values, "ssim": values / 40, "psnr_single": values, "seconds": 0.5}
    return pd.DataFrame({"dataset": dataset, "image": names, "pixels": [name * 8 for name in names], **scores})


def evaluate(
    store: Store, images: int = 5, psnr: float = 38.0, *, of: int = 5, machine=MACHINE, told=None, **protocol
) -> str:
    key = Store.evaluation_key(
        "mambairv2-light", weights=WEIGHTS, task="sr-x2", dataset="Set5", protocol={**PROTOCOL, **protocol}
    )
    store.add_evaluation(key, rows(images, psnr), machine, expected=of, **(told or {}))
    return records.key_of(key)


def config(variant: str, seed: int) -> dict:
    variant = {"name": variant, "model": "mambairv2-tiny", "overrides": {}, "labels": "learned"}
    budget = {"name": "reduced", "iterations": 10}
    sets = {"train_sets": ["T91"], "test_sets": ["Set5"]}
    return {"variant": variant, "task": "sr-x2", "seed": seed, "budget": budget, "protocol": PROTOCOL, **sets}


def train(store: Store, variant: str, seed: int, psnr: float = 30.0) -> str:
    folder = store.open_cell(config(variant, seed))
    store.write_scores(folder, rows(5, psnr))
    (folder / "weights.safetensors").write_bytes(safetensors.numpy.save({"a": np.zeros((3, 4), np.float32)}))
    records.write_json(folder / "environment.json", {**MACHINE, "train_seconds": 2.0})
    store.write_status(folder, "done", step=10, expected={"Set5": 5}, weights="w")
    return folder.name


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def committed(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    return measured.FOLDER


def empty(tmp_path) -> Store:
    return Store(tmp_path / "nothing")


def same(a: pd.DataFrame, b: pd.DataFrame, *drop: str) -> None:
    order = ["hash", *(["image"] if "image" in a else [])]
    drop = (*drop, "committed")  # where they come from is what differs
    a, b = (frame.drop(columns=list(drop), errors="ignore").sort_values(order, ignore_index=True) for frame in (a, b))
    pd.testing.assert_frame_equal(a, b, check_dtype=False, check_exact=True)


def test_what_is_written_comes_back_to_the_last_bit(store, committed, tmp_path):
    evaluate(store)
    evaluate(store, seed=1, psnr=38.1, told={"file": "mine.pth", "as_official": True})
    cells = [train(store, variant, seed) for variant in ("base", "off") for seed in (0, 1)]
    store.add_family("ablations", "parts", config("base", 0), [("all", config("base", 0)), ("none", config("off", 0))])
    lines = export.export(store, "h200/pilot", "the command")
    assert "2 evaluation records, 4 cells, 30 scores of images, 2 members of families" in lines[0]
    ours, theirs = Evidence(store, tmp_path / "no such folder"), Evidence(empty(tmp_path), committed)
    same(ours.cells, theirs.cells)
    same(ours.evaluations, theirs.evaluations)
    same(ours.means, theirs.means)
    same(ours.scores, theirs.scores, "environment")
    same(ours.families, theirs.families)
    assert theirs.problems == [] and [theirs.parameters(name) for name in cells] == [12] * 4
    record = json.loads((committed / "h200" / "pilot.scores.json").read_text())
    assert record["exported"]["command"] == "the command" and record["exported"]["date"]
    assert [entry["command"] for entry in record["environments"].values()] == ["runner.py evaluate ..."]


def test_the_same_store_gives_the_same_table(store, committed):
    evaluate(store)
    for name in ("a", "b"):
        export.export(store, f"h200/{name}", "the command")
    first, second = ((committed / "h200" / f"{name}.scores.csv.xz").read_bytes() for name in ("a", "b"))
    assert first == second


def test_training_logs_of_finished_cells_are_committed(store, committed):
    lines = [{"step": step, "lr": 2e-4, "loss": 1 / (3 * step), "seconds": step / 7} for step in (1, 2)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done, other = (store.cell_folder(config(variant, 0)) for variant in ("base", "off"))
    train(store, "base", 0)
    store.open_cell(config("off", 0))
    for folder in (done, other):
        (folder / "train.jsonl").write_text(text)
    assert any("training logs of 1 cell" in line for line in export.export(store, "h200/a", "the command"))
    found = pd.read_csv(committed / "h200" / "a.training.csv.xz")
    assert set(found.pop("hash")) == {done.name}
    pd.testing.assert_frame_equal(found, pd.DataFrame(lines), rtol=1e-6)


def test_a_cell_on_its_way_is_committed_until_it_is_finished(store, committed, tmp_path):
    def begin(store: Store, step: int) -> str:
        folder = store.open_cell(config("base", 0))
        records.write_json(folder / "environment.json", {k: v for k, v in MACHINE.items() if k != "finished"})
        store.write_status(folder, "planned", step=step, reason="stopped")
        for iteration in range(3, step, 3):
            records.write_frame(folder / f"scores-{iteration}.parquet", rows(2, 20.0 + iteration))
        return folder.name

    name, nothing = begin(store, 7), empty(tmp_path)
    store.open_cell(config("off", 0))  # not scored yet
    export.export(store, "h200/begun", "the command")
    found = Evidence(nothing, committed)
    assert found.cells[["hash", "state", "step"]].values.tolist() == [[name, "planned", 7]] and found.scores.empty
    means = trajectory.load(found, committed)[["hash", "iteration", "psnr"]]
    assert means.values.tolist() == [[name, 3, pytest.approx(23.0)], [name, 6, pytest.approx(26.0)]]
    further = Store(tmp_path / "further")
    begin(further, 9)
    assert Evidence(further, committed).cells["step"].tolist() == [9]
    train(further, "base", 0)
    export.export(further, "h200/all", "the command")
    found = Evidence(nothing, committed)
    assert found.cells["state"].tolist() == ["done"] and not found.problems


def test_a_number_without_provenance_is_not_committed(store, committed):
    machine = {name: value for name, value in MACHINE.items() if name not in ("command", "finished")}
    evaluate(store, machine=machine)
    with pytest.raises(StoreError, match="does not say its command, finished: such a number is not committed"):
        export.export(store, "h200/a", "the command")
    assert not committed.exists()
    export.export(store, "h200/a", "", {"command": "sh call.sh", "finished": "2026-01-02"})
    found = measured.load(committed).evaluations[0]
    assert (found["command"], found["finished"]) == ("sh call.sh", "2026-01-02")


def test_an_empty_store_is_not_exported(store, committed):
    with pytest.raises(StoreError, match="holds no finished cell, no evaluation record, no analysis and no sweep"):
        export.export(store, "h200/a", "")


@pytest.mark.parametrize("name", ["../../x", "h200/../../x", "/tmp/x", "h200", "h200/a/b", "h200/", ".hidden/a", ""])
def test_nothing_is_written_outside_the_folder(store, committed, tmp_path, name):
    evaluate(store)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match="is not MACHINE/NAME: give the folder under results/measured and a name"):
        export.export(store, name, "the command")
    assert sorted(tmp_path.rglob("*")) == before


# Both a store and what is committed


def test_the_record_with_more_images_counts_and_rows_are_not_mixed(store, committed, tmp_path):
    name = evaluate(store)
    export.export(store, "h200/a", "")
    user = Store(tmp_path / "user")
    evaluate(user, 3, 20.0)
    evidence = Evidence(user, committed)
    assert list(evidence.evaluations["images"]) == [5] and evidence.means["psnr"].iloc[0] == pytest.approx(38.0)
    assert len(evidence.scores) == 5
    whole = Store(tmp_path / "whole")
    evaluate(whole, 5, 20.0)
    evidence = Evidence(whole, committed)
    assert list(evidence.evaluations["hash"]) == [name] and evidence.means["psnr"].iloc[0] == pytest.approx(20.0)


def test_an_unfinished_cell_gives_way_to_a_committed_one(store, committed, tmp_path):
    train(store, "base", 0, 30.0)
    export.export(store, "h200/a", "")
    user = Store(tmp_path / "user")
    user.open_cell(config("base", 0))
    user.open_cell(config("base", 1))
    cells = Evidence(user, committed).cells.set_index("seed")["state"]
    assert cells.to_dict() == {0: "done", 1: "planned"}
    train(user, "base", 0, 31.0)
    assert Evidence(user, committed).means["psnr"].iloc[0] == pytest.approx(31.0)


# Damage


def pair(committed):
    return committed / "h200" / "a.scores.json", committed / "h200" / "a.scores.csv.xz"


def table(path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def rewrite(path, frame: pd.DataFrame) -> None:
    path.write_bytes(lzma.compress(frame.to_csv(index=False).encode()))


def no_column(json_path, path):
    rewrite(path, table(path).drop(columns="ssim"))


def no_number(json_path, path):
    rewrite(path, table(path).assign(psnr="38,0"))


def twice(json_path, path):
    rewrite(path, pd.concat([table(path), table(path).iloc[:1]]))


def stranger(json_path, path):
    rewrite(path, table(path).assign(hash="f" * 16))


def cut(json_path, path):
    path.write_bytes(path.read_bytes()[:40])


def gone(json_path, path):
    path.unlink()


def no_json(json_path, path):
    json_path.write_text("{")


def no_part(json_path, path):
    json_path.write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_column, "h200/a.scores.csv.xz lacks the column ssim"),
        (no_number, "h200/a.scores.csv.xz: a score is no number"),
        (twice, "h200/a.scores.csv.xz repeats Set5/NA"),
        (stranger, "h200/a.scores.csv.xz has scores of ffffffffffffffff, which a.scores.json does not name"),
        (cut, "h200/a.scores.csv.xz cannot be read as compressed CSV"),
        (gone, "h200/a.scores.csv.xz is missing"),
        (no_json, "h200/a.scores.json cannot be read as JSON"),
        (no_part, "h200/a.scores.json lacks exported, environments, evaluations, cells"),
    ],
)
def test_a_damaged_file_is_one_line_and_the_others_are_read(store, committed, damage, message, tmp_path):
    evaluate(store)
    export.export(store, "h200/a", "")
    other = Store(tmp_path / "other")
    evaluate(other, seed=1)
    export.export(other, "h200/b", "")
    damage(*pair(committed))
    found = measured.load(committed)
    (problem,) = found.problems
    assert problem.startswith(message) and "\n" not in problem
    assert [row["protocol"]["seed"] for row in found.evaluations] == [1] and len(found.scores) == 5


def test_a_damaged_entry_leaves_the_others(store, committed):
    evaluate(store)
    kept = evaluate(store, seed=1)
    export.export(store, "h200/a", "")
    path, _ = pair(committed)
    record = json.loads(path.read_text())
    odd = next(name for name in record["evaluations"] if name != kept)
    record["evaluations"][odd]["key"]["protocol"]["seed"] = 5
    path.write_text(json.dumps(record))
    found = measured.load(committed)
    assert [row["hash"] for row in found.evaluations] == [kept]
    assert found.problems[0].startswith(f"the key of evaluation {odd} belongs to ")
    del record["evaluations"][odd]["key"]
    path.write_text(json.dumps(record))
    assert measured.load(committed).problems == [f"h200/a.scores.json: evaluation {odd} lacks 'key'"]


def test_the_same_record_in_two_files_is_taken_once(store, committed):
    name = evaluate(store)
    for file in ("a", "b"):
        export.export(store, f"h200/{file}", "")
    found = measured.load(committed)
    assert len(found.evaluations) == 1 and len(found.scores) == 5 and found.problems == []
    rewrite(committed / "h200" / "b.scores.csv.xz", table(pair(committed)[1]).assign(psnr=30.0))
    found = measured.load(committed)
    assert len(found.evaluations) == 1 and found.evaluations[0]["psnr"] == pytest.approx(38.0)
    assert len(found.problems) == 1
    assert f"h200/b.scores.json: evaluation {name} is in another file with other scores: Set5/" in found.problems[0]


def test_what_is_committed_here_can_be_read():
    found = measured.load()
    assert found.problems == [] and list(found.scores.columns[: len(SCORE_COLUMNS)]) == list(SCORE_COLUMNS)
    for entry in (*found.cells, *found.evaluations):
        unfinished = entry.get("state") == "planned" and 0 < entry["step"] < entry["iterations"]
        assert all(entry[name] for name in measured.PROVENANCE if not (unfinished and name == "finished"))


def test_what_is_committed_here_names_no_place_of_a_machine():
    for path in measured.FOLDER.rglob("*.json"):
        found = re.findall(r"(?:/tmp|/root|/home|/work|\.\./)[^\s\"',]*", path.read_text())
        assert not found, (path, found[:3])


def test_parameters_of_damaged_weights_are_a_store_error(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not one")
    with pytest.raises(StoreError, match=r"weights.safetensors cannot be read as safetensors"):
        measured.parameters(path)
