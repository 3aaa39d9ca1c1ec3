"""A disk that is full, read-only or gone while something is written: said in one line, and made good by going on."""

import shutil
import tarfile

import pytest

from results.archive import import_into
from results.records import StoreError, WriteError
from results.store import Store
from suites.training import trainer
from tests.faults import work
from tests.faults.harness import fill, small_disk
from tests.results.test_store import MACHINE, cell, finish, key, rows

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    work.train(folder)
    return (folder / trainer.WEIGHTS).read_bytes()


def at(step: int, do) -> trainer.Hooks:
    """Does something once, when that step has been taken."""
    left = [do]
    return trainer.Hooks(on_sync=lambda runs: runs[0].step >= step and left and left.pop()())


def test_training_on_a_full_disk(tmp_path, undisturbed):
    with small_disk(tmp_path / "disk") as _:
        folder = tmp_path / "disk" / "cell"
        with pytest.raises(WriteError, match="no space is left there"):
            work.train(folder, hooks=at(10, lambda: fill(tmp_path / "disk")))
        (tmp_path / "disk" / ".ballast").unlink()
        work.train(folder)
        assert (folder / trainer.WEIGHTS).read_bytes() == undisturbed


def test_training_on_a_disk_that_turns_read_only(tmp_path, undisturbed):
    with small_disk(tmp_path / "disk") as remount:
        folder = tmp_path / "disk" / "cell"
        with pytest.raises(WriteError, match="the file system is read-only"):
            work.train(folder, hooks=at(10, lambda: remount("ro")))
        remount("rw")
        work.train(folder)
        assert (folder / trainer.WEIGHTS).read_bytes() == undisturbed


def test_training_in_a_folder_that_vanishes(tmp_path, undisturbed):
    """What was in it is gone; nothing goes on in silence, and the cell is made again from its seed."""
    with pytest.raises(WriteError, match=r"cannot write .*: No such file"):
        work.train(tmp_path / "cell", hooks=at(10, lambda: shutil.rmtree(tmp_path / "cell")))
    work.train(tmp_path / "cell")
    assert (tmp_path / "cell" / trainer.WEIGHTS).read_bytes() == undisturbed


def test_rows_and_imports_on_a_full_disk(tmp_path):
    theirs = Store(tmp_path / "theirs")
    finish(theirs, cell(), rows("baby", "bird"), {"Set5": 2})
    theirs.add_evaluation(key(), rows("head", "woman"), MACHINE, expected=5)
    with tarfile.open(tmp_path / "theirs.tar", "w") as archive:
        archive.add(theirs.root, "runs")
    with small_disk(tmp_path / "disk") as _:
        store = Store(tmp_path / "disk" / "store")
        store.add_evaluation(key(), rows("baby"), MACHINE, expected=5)
        before = store.scores()
        ballast = fill(tmp_path / "disk")
        for act in (
            lambda: store.add_evaluation(key(), rows("bird"), MACHINE, expected=5),
            lambda: import_into(store, tmp_path / "theirs.tar"),
        ):
            with pytest.raises(StoreError, match="no space is left there"):
                act()
            assert store.scores().equals(before) and store.evaluations()["problem"].isna().all()
        ballast.unlink()
        assert import_into(store, tmp_path / "theirs.tar").ok
        assert len(store.add_evaluation(key(), rows("bird"), MACHINE, expected=5)) == 4
