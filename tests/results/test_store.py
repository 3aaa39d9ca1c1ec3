"""The store: nothing lost, nothing contradicted, everything readable without it."""

import errno
import hashlib
import json
import os
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from results import archive, locks, records
from results.store import Store, StoreError
from suites.spec import Budget, Cell, Protocol, Task, Variant

SR = Task.parse("sr-x2")
PROTOCOL = Protocol.official(SR).to_dict()


def cell(name: str = "base", seed: int = 0, **budget) -> Cell:
    variant = Variant(name, "mambairv2-tiny", {"num_tokens": 8, "depths": [2, 2]})
    return Cell(
        variant, SR, seed, Budget("smoke", **{"iterations": 5, **budget}), ("a",), ("Set5",), Protocol.official(SR)
    )


def rows(*images: str, dataset: str = "Set5", shift: float = 0.0) -> pd.DataFrame:
    scores = [30.0 + len(image) + shift for image in images]
    pixels = [hashlib.sha256(image.encode()).hexdigest() for image in images]
    frame = pd.DataFrame({"dataset": dataset, "image": images, "pixels": pixels, "psnr": scores})
    return frame.assign(ssim=0.9, psnr_single=scores, seconds=0.1)


def finish(store: Store, which: Cell, scores: pd.DataFrame, expected: dict[str, int], weights: str = "w") -> None:
    folder = store.open_cell(which.config())
    store.write_scores(folder, scores)
    (folder / "weights.safetensors").write_bytes(weights.encode())
    records.write_json(folder / "environment.json", {"device": "a machine", "threads": 1, "train_seconds": 2.0})
    store.write_status(folder, "done", step=5, expected=expected, weights=weights)


def key(dataset: str = "Set5", weights: str = "w" * 64, **protocol) -> dict:
    return Store.evaluation_key(
        "mambairv2-light", weights=weights, task="sr-x2", dataset=dataset, protocol={**PROTOCOL, **protocol}
    )


MACHINE = {"device": "a machine", "backend": "chunked", "threads": 2, "commit": "c", "finished": "2026-01-01T00:00:00"}


def test_protocol_keys_are_the_vocabulary_in_its_order():
    assert tuple(PROTOCOL) == records.PROTOCOL_KEYS


def test_folder_name_follows_from_the_stored_file_alone(tmp_path):
    folder = Store(tmp_path).open_cell(cell().config())
    text = json.dumps(json.loads((folder / "config.json").read_text()), separators=(",", ":"))
    assert folder.name == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert list(json.loads((folder / "config.json").read_text())["protocol"]) == list(PROTOCOL)


def test_hash_ignores_key_order_and_tuples_but_no_value():
    config = cell().config()
    shuffled = {name: config[name] for name in reversed(config)}
    shuffled["variant"] = {**config["variant"], "overrides": {"depths": (2, 2), "num_tokens": 8}}
    assert records.key_of(shuffled) == records.key_of(config)
    others = [cell(seed=1), cell("other"), cell(lr=1e-4), cell(iterations=6)]
    assert len({records.key_of(item.config()) for item in (cell(), *others)}) == 5
    assert Cell.from_config(json.loads(json.dumps(records.canonical(config)))).config()["budget"] == config["budget"]


def test_configurations_that_json_cannot_hold_are_refused():
    with pytest.raises(StoreError, match="not finite"):
        records.key_of({"lr": float("nan")})
    with pytest.raises(StoreError, match="ndarray"):
        records.key_of({"lr": np.zeros(2)})
    with pytest.raises(StoreError, match=r"exactly tiling, routing.*self_ensemble"):
        records.key_of({"protocol": {**PROTOCOL, "self_ensemble": True}})


def test_reading_a_store_that_is_not_there_makes_nothing(tmp_path):
    store = Store(tmp_path / "a" / "b")
    assert store.cells().empty and store.evaluations().empty and store.scores().empty and store.means().empty
    assert not (tmp_path / "a").exists()


def test_cell_from_plan_to_done(tmp_path):
    store, which = Store(tmp_path), cell()
    folder = store.open_cell(which.config())
    assert store.status(folder)["state"] == "planned"
    finish(store, which, rows("baby", "bird"), {"Set5": 2})
    row = store.cells().iloc[0]
    assert (row["name"], row["state"], row["iterations"], row["device"]) == (
        "base/sr-x2/seed-0",
        "done",
        5,
        "a machine",
    )
    assert row["hash"] == folder.name and row["overrides"] == {"depths": [2, 2], "num_tokens": 8}
    assert Cell.from_config(row["config"]).name == which.name
    mean = store.means().iloc[0]
    assert (mean["psnr"], mean["complete"], mean["coverage"]) == (34.0, True, "2 images")
    assert list(pd.read_parquet(folder / "scores.parquet")["image"]) == ["baby", "bird"]


def test_mean_of_a_set_needs_every_image(tmp_path):
    store = Store(tmp_path)
    store.add_evaluation(key(), rows("baby", "bird"), MACHINE, expected=5)
    row = store.evaluations().iloc[0]
    assert row["psnr"] is None and not row["complete"] and row["coverage"] == "2 of 5 images"
    store.add_evaluation(key(), rows("bird", "butterfly", "head", "woman"), {**MACHINE, "threads": 1}, expected=5)
    row = store.evaluations().iloc[0]
    assert row["complete"] and row["coverage"] == "5 images"
    assert row["psnr"] == pytest.approx(30 + (4 + 4 + 9 + 4 + 5) / 5)
    measured = store.scores().set_index("image")["environment"]
    assert measured["baby"] == measured["bird"] != measured["head"]  # each row names the machine that made it


def test_mean_with_a_perfectly_restored_image_is_none(tmp_path):
    store = Store(tmp_path)
    scores = rows("baby", "bird")
    scores["psnr"] = [None, 31.0]
    store.add_evaluation(key(), scores, MACHINE, expected=2)
    row = store.evaluations().iloc[0]
    assert row["psnr"] is None and row["ssim"] == pytest.approx(0.9)
    store.add_evaluation(key(), scores, MACHINE, expected=2)  # null equals null


def test_record_is_keyed_by_model_weights_task_dataset_and_protocol(tmp_path):
    store = Store(tmp_path)
    keys = [key(), key("Set14"), key(weights="none"), key(samples=8), key(tiling="none")]
    assert len({store.evaluation_folder(item) for item in keys}) == len(keys)
    with pytest.raises(StoreError, match="Set5 cannot hold rows of Set14"):
        store.add_evaluation(key(), rows("a", dataset="Set14"), MACHINE, expected=1)


def test_same_image_with_another_score_is_an_error_and_changes_nothing(tmp_path):
    store = Store(tmp_path)
    store.add_evaluation(key(), rows("baby", "bird"), MACHINE, expected=5)
    folder = store.evaluation_folder(key())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError, match=r"Set5/bird has psnr 34 here, not 34\.00001"):
        store.add_evaluation(key(), rows("bird", "head", shift=1e-5), MACHINE, expected=5)
    other = rows("bird").assign(pixels="f" * 64)
    with pytest.raises(StoreError, match="another picture"):
        store.add_evaluation(key(), other, MACHINE, expected=5)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    close = rows("bird", "head", shift=5e-7)
    assert len(store.add_evaluation(key(), close, MACHINE, expected=5)) == 3
    assert store.scores().set_index("image").loc["bird", "psnr"] == 34.0  # the first measurement stays


def test_rows_that_contradict_each_other_are_refused_at_once(tmp_path):
    twice = pd.concat([rows("baby"), rows("baby", shift=1.0)])
    with pytest.raises(StoreError, match="Set5/baby"):
        Store(tmp_path).add_evaluation(key(), twice, MACHINE, expected=5)
    with pytest.raises(StoreError, match="no column pixels"):
        Store(tmp_path).add_evaluation(key(), rows("baby").drop(columns="pixels"), MACHINE, expected=5)


def test_damaged_folders_are_listed_not_fatal(tmp_path):
    store = Store(tmp_path)
    for seed in range(6):
        finish(store, cell(seed=seed), rows("baby"), {"Set5": 1})
    folders = [store.cell_folder(cell(seed=seed).config()) for seed in range(6)]
    (folders[0] / "config.json").write_text('{"variant": ')
    (folders[1] / "scores.parquet").write_bytes(b"PAR1 not really")
    (folders[2] / "weights.safetensors").unlink()
    (folders[3] / "status.json").write_text("[]")
    os.rename(folders[4], tmp_path / ("0" * 16))
    store.add_evaluation(key(), rows("baby"), MACHINE, expected=1)
    store.add_evaluation(key("Set14"), rows("man", dataset="Set14"), MACHINE, expected=1)
    (store.evaluation_folder(key()) / "record.json").unlink()

    cells = store.cells().set_index("hash")
    said = {
        0: "cannot be read as JSON",
        1: "cannot be read as Parquet",
        2: "weights.safetensors is missing",
        3: "no JSON",
    }
    for index, text in said.items():
        assert text in cells.loc[folders[index].name, "problem"] and cells.loc[folders[index].name, "state"] is None
    assert f"configuration of the cell {folders[4].name}" in cells.loc["0" * 16, "problem"]
    assert cells.loc[folders[5].name, "state"] == "done" and cells.loc[folders[5].name, "problem"] is None
    assert list(store.evaluations()["problem"].notna()) in ([True, False], [False, True])
    assert set(store.scores()["image"]) == {"baby", "man"} and len(store.means()) == 2


def test_resolve_cell_by_hash_prefix_or_name(tmp_path):
    store = Store(tmp_path)
    folders = [store.open_cell(cell(seed=seed).config()) for seed in (0, 1)]
    assert store.resolve_cell("base/sr-x2/seed-1") == folders[1]
    assert store.resolve_cell(folders[0].name[:6]) == folders[0]
    with pytest.raises(StoreError, match="no cell 'nothing'"):
        store.resolve_cell("nothing")
    finish(store, cell(iterations=6), rows("baby"), {"Set5": 1})
    with pytest.raises(StoreError, match="fits 2 cells"):
        store.resolve_cell("base/sr-x2/seed-0")


def test_root_through_a_regular_file(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(StoreError, match=r"file is a file, not a folder.*--results"):
        Store(tmp_path / "file" / "runs")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "no space is left"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")]
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_write_is_one_clear_line_and_loses_nothing(tmp_path, monkeypatch, number, said, call):
    store = Store(tmp_path)
    finish(store, cell(), rows("baby"), {"Set5": 2})
    folder = store.cell_folder(cell().config())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StoreError, match=said) as caught:
            store.write_scores(folder, rows("bird"))
        with pytest.raises(StoreError, match=said):
            store.write_status(folder, "failed")
        with pytest.raises(StoreError, match=said):
            store.open_cell(cell(seed=7).config())
        with pytest.raises(StoreError, match=said):
            store.add_evaluation(key(), rows("baby"), MACHINE, expected=5)
    assert "\n" not in str(caught.value) and "Nothing stored before is lost" in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before  # and no temporary file stays
    assert len(store.write_scores(folder, rows("bird"))) == 2


def test_lock_names_its_holder_and_stale_ones_are_recognised(tmp_path):
    path = tmp_path / locks.NAME
    with locks.hold(tmp_path):
        assert locks.holder(tmp_path) == locks.Holder.myself()
        with pytest.raises(locks.LockedError, match=f"process {os.getpid()} on"), locks.hold(tmp_path):
            pass
        assert locks.holder(tmp_path) is not None  # the refused one did not release it
    assert locks.holder(tmp_path) is None and not path.exists()

    mine = locks.Holder.myself()
    stale = [
        {"pid": 2**22 + 1, "host": mine.host, "born": 5},  # no such process
        {"pid": mine.pid, "host": mine.host, "born": (mine.born or 0) - 1},  # its number was used again
        {"pid": 1, "host": "another-machine", "born": 5},  # silent for long, see the file's time
    ]
    for content in stale:
        path.write_text(json.dumps(content))
        os.utime(path, (0, 0))
        assert locks.holder(tmp_path) is None
        with locks.hold(tmp_path):
            pass
    path.write_text('{"pid": 1')  # cut off while it was written
    with locks.hold(tmp_path):
        pass
    path.write_text(json.dumps(stale[2]))
    with pytest.raises(locks.LockedError, match="another-machine"), locks.hold(tmp_path):
        pass


def test_a_lock_that_another_host_took_over_stays(tmp_path):
    path, other = tmp_path / locks.NAME, locks.Holder(1, "another-machine", 5)
    with locks.hold(tmp_path):
        path.write_text(json.dumps(asdict(other)))  # after this process was silent for long
    assert locks.holder(tmp_path) == other
    path.unlink()
    with locks.hold(tmp_path):
        path.unlink()  # the other one has come and gone
    assert not path.exists()


def test_running_without_a_living_lock_was_interrupted(tmp_path):
    store = Store(tmp_path)
    folder = store.open_cell(cell().config())
    with locks.hold(folder):
        store.write_status(folder, "running", step=3)
        assert store.cells().loc[0, "state"] == "running"
    status = store.status(folder)
    assert status["state"] == "planned" and "interrupted at step 3" in status["reason"]


def told(store: Store, of: dict) -> tuple:
    row = store.evaluations().set_index("hash").loc[records.key_of(of)]
    return row["file"], row["as_official"]


def test_a_record_says_of_its_weights_what_its_key_does_not(tmp_path):
    """The file's name, and that the user holds them for published ones: added, never taken back, no part of the key."""
    store, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    store.describe_weights(key(), file="early.pth", as_official=True)
    assert not store.root.exists()  # nothing is there to be described
    store.add_evaluation(key(), rows("baby"), MACHINE, expected=2)
    assert told(store, key()) == (None, False)
    before = (store.evaluation_folder(key()) / "record.json").read_text()
    store.describe_weights(key(), file=None, as_official=False)
    assert (store.evaluation_folder(key()) / "record.json").read_text() == before
    store.describe_weights(key(), file="mine.pth", as_official=True)
    store.add_evaluation(key(), rows("bird"), MACHINE, expected=2, file="same.pth")
    assert told(store, key()) == ("mine.pth", True)
    assert len(store.scores()) == 2 and len(store.evaluation_folders()) == 1
    other.add_evaluation(key(), rows("baby"), MACHINE, expected=2, file="theirs.pth")
    assert archive.import_into(other, store.root).ok and told(other, key()) == ("theirs.pth", True)
