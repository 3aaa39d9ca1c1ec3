"""Stores on file systems and clocks that behave badly, and stores of other versions."""

import errno
import json
import os
import threading
import time

import pytest

from results import locks, records
from results.store import Store, StoreError
from suites.spec import Cell, SpecError
from tests.results.test_store import MACHINE, cell, finish, key, rows


@pytest.fixture
def no_flock(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)


def test_writers_without_flock_lose_no_row(no_flock, tmp_path):
    store, stems = Store(tmp_path), [f"image-{number}" for number in range(12)]

    def write(part: list[str]) -> None:
        for stem in part:
            store.add_evaluation(key(), rows(stem), MACHINE, expected=len(stems))

    writers = [threading.Thread(target=write, args=(stems[first::3],)) for first in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(store.scores()["image"]) == sorted(stems) and bool(store.means()["complete"].all())
    assert not list(tmp_path.rglob("*.taken"))


def test_a_cell_is_held_once_without_flock_and_a_crash_in_between_is_outlived(no_flock, tmp_path):
    with locks.hold(tmp_path), pytest.raises(locks.LockedError), locks.hold(tmp_path):
        pass
    (tmp_path / "lock.taken").mkdir()  # of a process that was killed while it looked
    os.utime(tmp_path / "lock.taken", (0, 0))
    with locks.hold(tmp_path):
        assert locks.holder(tmp_path) == locks.Holder.myself()
    assert not list(tmp_path.iterdir())


def test_other_errors_of_flock_are_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(StoreError, match="Input/output error"), locks.hold(tmp_path):
        pass


def test_a_job_that_slurm_has_started_again_takes_its_cell_over(tmp_path, monkeypatch):
    """From a node that has failed: its lock looks alive for minutes."""
    lock = {"pid": 1, "host": "node-that-failed", "born": 5, "job": "77", "restarts": 0}
    for own, restarts, free in (("77", "1", True), ("77", "0", False), ("78", "1", False)):
        (tmp_path / locks.NAME).write_text(json.dumps(lock))
        monkeypatch.setenv("SLURM_JOB_ID", own)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        assert (locks.holder(tmp_path) is None) == free
    del lock["job"], lock["restarts"]  # of an older version
    (tmp_path / locks.NAME).write_text(json.dumps(lock))
    assert locks.holder(tmp_path) == locks.Holder(1, "node-that-failed", 5)


def test_a_file_that_is_seen_late_is_waited_for_by_going_on(tmp_path, monkeypatch):
    """A client of a network file system does not see yet what another has just written: it is an unfinished cell to it,
    never a damaged one or other scores."""
    store = Store(tmp_path)
    finish(store, cell(), rows("baby", "bird"), {"Set5": 2})
    folder, whole = store.cell_folder(cell().config()), store.cells()
    for name in ("status.json", "config.json", "scores.parquet", "weights.safetensors"):
        hidden = (folder / name).rename(tmp_path / "hidden")
        seen = store.cells()
        assert seen["state"].isin(["planned", None]).all() or seen["problem"].notna().all()
        assert store.means().empty or name == "weights.safetensors"
        hidden.rename(folder / name)
        assert store.cells().equals(whole)


def test_a_clock_that_is_set_back_frees_no_cell_and_contradicts_nothing(tmp_path, monkeypatch):
    store, now = Store(tmp_path), time.time
    store.add_evaluation(key(), rows("baby"), MACHINE, expected=2)
    lock = {"pid": 1, "host": "another-machine", "born": 5}
    (tmp_path / locks.NAME).write_text(json.dumps(lock))
    monkeypatch.setattr(time, "time", lambda: now() - 86400)
    assert locks.holder(tmp_path) is not None  # renewed "tomorrow": its holder may well be at work
    assert len(store.add_evaluation(key(), rows("bird"), MACHINE, expected=2)) == 2
    with locks.hold(tmp_path / "mine"):
        assert locks.holder(tmp_path / "mine") == locks.Holder.myself()


def test_stores_of_older_and_newer_versions(tmp_path):
    """Older: records without what later versions add. Newer: a word that this version does not know is named."""
    store = Store(tmp_path)
    store.add_evaluation(key(), rows("baby"), MACHINE, expected=1)
    record = store.evaluation_folder(key()) / "record.json"
    content = records.read_json(record)
    assert set(content) == {"key", "expected"} and store.evaluations()["problem"].isna().all()
    records.write_json(record, content | {"of_a_later_version": [1]})
    assert store.evaluations()["problem"].isna().all()
    config = cell().config()
    assert Cell.from_config({name: value for name, value in config.items() if name != "initial"}) == cell()
    with pytest.raises(SpecError, match="of_a_later_version"):
        Cell.from_config(config | {"budget": config["budget"] | {"of_a_later_version": 1}})
