"""kill -9 at random moments: what was finished is there, nothing is half there, and going on ends in the same bytes."""

import json
import os
import tarfile
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from models.ops import native
from results import measured, records
from results.costs import lines
from results.store import Store
from suites.training import checkpoints, trainer
from tests.faults import work
from tests.faults.harness import COUNT, SEED, kill_often, log, run
from tests.results.test_store import cell, finish, key, rows
from tests.suites.training import test_processes as processes

pytestmark = pytest.mark.usefixtures("one_thread")


def test_training(tmp_path):
    moment = np.random.default_rng(SEED)

    def check(folder: Path, said: list[int]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of damage: there is none
            if not (folder / trainer.WEIGHTS).exists():
                kept = checkpoints.load(folder) if folder.exists() else None
                # A step is said after its checkpoint.
                last = max((step for step in said if step and step % work.BUDGET.checkpoint_every == 0), default=0)
                assert (kept["step"] if kept else 0) >= min(last, work.BUDGET.iterations - work.BUDGET.checkpoint_every)
                run(work.train, folder, after=moment.uniform(0, 0.2))  # killed twice
            work.train(folder)
        whole = tmp_path / "undisturbed"
        assert (folder / trainer.WEIGHTS).read_bytes() == (whole / trainer.WEIGHTS).read_bytes()
        assert losses(folder) == losses(whole)
        assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}

    kill_often("training", work.train, tmp_path, check)


def losses(folder: Path) -> list[tuple]:
    lines = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


def test_one_of_several_processes_that_train_a_cell(tmp_path):
    """The others end, as torchrun would see to, and as many go on from the last checkpoint."""
    whole, begun = processes.train(2, tmp_path / "undisturbed").read_bytes(), time.monotonic()
    assert processes.train(2, tmp_path / "again").read_bytes() == whole
    seconds, draws, hits = time.monotonic() - begun, np.random.default_rng(SEED), 0
    for number in range(COUNT):
        folder, moment, rank = tmp_path / f"kill-{number}", draws.uniform(0, seconds), int(draws.integers(2))
        started = processes.begin(2, folder)
        time.sleep(moment)
        hits += started[rank].is_alive()
        started[rank].kill()
        started[1 - rank].join(1)
        started[1 - rank].terminate()
        for process in started:
            process.join()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of damage: there is none
            if folder.exists():
                checkpoints.load(folder)
        assert processes.train(2, folder).read_bytes() == whole
        assert processes.losses(folder) == processes.losses(tmp_path / "undisturbed")
        assert not list(folder.glob("checkpoint*"))
    log("one of two processes of a cell", tried=COUNT, killed=hits, seed=SEED, seconds_of_work=round(seconds, 3))


def test_checkpointing(tmp_path):
    def check(folder: Path, said: list[int]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kept = checkpoints.load(folder) if folder.exists() else None
        last = max(said, default=0)
        assert (kept["step"] if kept else 0) in (last, last + 1)
        assert kept is None or kept["weights"].equal(work.state(kept["step"])["weights"])

    kill_often("checkpointing", work.keep, tmp_path, check)


def test_writing(tmp_path):
    def check(folder: Path, said: list[str]) -> None:
        store = Store(folder)
        scores = store.scores()
        assert set(said) <= set(scores["image"]) <= set(work.STEMS)
        for problem in store.evaluations()["problem"].dropna():
            assert not said and problem.endswith("record.json is missing")  # killed while it filed the first image
        work.write(folder, lambda stem: None)
        assert (
            Store(folder)
            .means()
            .drop(columns="hash")
            .equals(Store(tmp_path / "undisturbed").means().drop(columns="hash"))
        )

    kill_often("writing", work.write, tmp_path, check)


def test_importing(tmp_path):
    theirs = Store(tmp_path / "theirs")
    for seed in range(4):
        finish(theirs, cell(seed=seed), rows("baby", "bird"), {"Set5": 2})
    theirs.add_evaluation(key(), rows("head", "woman"), {"device": "x"}, expected=5)
    with tarfile.open(tmp_path / "theirs.tar", "w") as archive:
        archive.add(theirs.root, "runs")

    def check(folder: Path, said: list) -> None:
        store = Store(folder)
        assert store.cells()["problem"].isna().all()
        work.bring(folder, None)
        assert store.cells().equals(theirs.cells()) and store.scores().equals(theirs.scores())
        assert not [path.name for path in store.root.iterdir() if path.name.startswith(".import")]

    kill_often("importing", work.bring, tmp_path, check)


def test_publishing(tmp_path):
    def check(folder: Path, said: list[int]) -> None:
        page = folder / "report.html"
        allowed = {bytes(work.PAGES[number % 2][:1]) for number in ([said[-1], said[-1] + 1] if said else [0])}
        assert page.exists() or not said
        if page.exists():
            content = page.read_bytes()
            assert content[:1] in allowed and content in work.PAGES

    kill_often("publishing", work.publish, tmp_path, check)


def test_scoring(tmp_path):
    work.draw(tmp_path / "data")

    def check(folder: Path, said: list) -> None:
        work.evaluate(folder, None)
        ours, whole = (
            Store(path).scores().drop(columns=["seconds", "environment"]) for path in (folder, tmp_path / "undisturbed")
        )
        assert ours.sort_values("image", ignore_index=True).equals(whole.sort_values("image", ignore_index=True))

    kill_often("scoring", work.evaluate, tmp_path, check)


def test_reporting(tmp_path):
    """A page is yesterday's or today's, never a part of one; what was left of it goes with a later report."""

    def check(folder: Path, said: list) -> None:
        for form in work.FORMS:
            path = folder / f"report.{form}"
            allowed = [(tmp_path / "undisturbed" / path.name).read_bytes(), b"the page of yesterday"]
            assert path.read_bytes() in allowed[: 1 if form in said else 2] if path.exists() else not said
        age(folder.rglob(".*.tmp"), records.LEFT_S)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measured, "FOLDER", None)
            work.report(folder, lambda form: None)
        assert tree(folder) == tree(tmp_path / "undisturbed")

    kill_often("reporting", work.report, tmp_path, check)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file with its content, without the dates in what a store says of machines."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def age(paths: Iterable[Path], seconds: float) -> None:
    """Makes files or folders so old, and a minute older."""
    old = time.time() - seconds - 60
    for path in paths:
        os.utime(path, (old, old))


def test_sweeping(tmp_path):
    """Points that were filed are there and are not measured again; no process of a network outlives the command."""

    def check(folder: Path, said: list[str]) -> None:
        file = lines.place(folder, work.SWEEPER)
        whole = [line for line in (file.read_bytes() if file.exists() else b"").split(b"\n")[:-1]]
        filed = sum(line.startswith(b'{"row"') for line in whole)
        assert len([line for line in said if line.startswith("[")]) <= filed <= len(work.SWEPT)
        end = time.monotonic() + 10
        while working(folder) and time.monotonic() < end:
            time.sleep(0.01)
        assert not working(folder)
        run(work.sweep, folder)
        assert sorted(row["height"] for row in lines.read(file).rows.values() if row["status"] == "ok") == [
            point.height for point in work.SWEPT
        ]
        begun = (folder / "begun").read_text().splitlines()
        assert len(begun) <= len(work.SWEPT) + 1  # what was being measured, once more

    kill_often("sweeping", work.sweep, tmp_path, check)


def working(folder: Path) -> list[str]:
    """Processes of networks that a sweep in `folder` has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"SWEEP_LOG={folder / 'begun'}".encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def test_building_the_native_library(tmp_path, monkeypatch):
    """Killed while it compiles or moves the library: the next build is whole, and clears what was left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("SOURCES", "FLAGS"):
        monkeypatch.setattr(native, name, getattr(native, name))
    try:
        native._compiler()
    except native.NativeError as error:
        pytest.skip(str(error))

    def check(folder: Path, said: list) -> None:
        cache = folder / "mambair-bench"
        age(cache.glob("build-*"), 2 * native.SECONDS)
        work.build(folder, lambda name: None)
        assert [path.suffix for path in cache.iterdir()] == [".so"]

    kill_often("building the native library", work.build, tmp_path, check)
