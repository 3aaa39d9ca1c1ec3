"""The engine with scripted cells: what is done is skipped, what dies is tried again, nothing runs twice."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from models import ModelError
from models.ops.scan import BackendError
from results import locks
from results.store import Store, StoreError
from suites.execution import engine, launchers
from suites.execution.engine import EngineError
from suites.execution.launchers import LocalLauncher
from suites.execution.verification import verify
from suites.spec import Cell, SpecError, Suite
from tests.suites.execution.fake_cell import FAKE, suite


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr("suites.execution.preflight.check_data", lambda cells, data: None)


def go(which: Suite, store: Store, **options) -> tuple[engine.Outcome, str]:
    told = io.StringIO()
    options = {"jobs": 2, "program": FAKE, "console": Console(file=told, width=200), **options}
    return engine.run(which, store, **options), told.getvalue()


def starts(store: Store, cell: Cell) -> int:
    path = store.cell_folder(cell.config()) / "runs.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0


def status(store: Store, cell: Cell) -> dict:
    return json.loads((store.cell_folder(cell.config()) / "status.json").read_text())


def test_cells_run_once_and_are_skipped_afterwards(tmp_path):
    store, which = Store(tmp_path / "runs"), suite("a", "b", seeds=(0, 1))
    assert [planned.state for planned in engine.plan(which, store)] == ["planned"] * 4
    outcome, told = go(which, store, command="runner.py run fake")
    assert outcome.ok and sorted(outcome.done) == sorted(cell.name for cell in which.cells)
    assert "[4/4]" in told and "a/sr-x2/seed-0: done" in told
    cells = store.cells()
    assert set(cells["state"]) == {"done"} and set(cells["command"]) == {"runner.py run fake"}
    assert set(store.means()["complete"]) == {True}
    outcome, _ = go(which, store)
    assert len(outcome.skipped) == 4 and not outcome.done
    assert [starts(store, cell) for cell in which.cells] == [1] * 4
    assert not list(store.root.rglob(locks.NAME)) and not list(store.root.rglob("*.tmp"))


def test_threads_are_given_or_divided_among_the_jobs(tmp_path):
    store, which = Store(tmp_path), suite("a")
    go(which, store, jobs=1, threads=3, backend="chunked", data=Path("pictures"))
    row = json.loads((store.cell_folder(which.cells[0].config()) / "environment.json").read_text())
    assert (row["threads"], row["backend"]) == (3, "chunked")
    assert row["data"] == str(Path.cwd() / "pictures")  # whatever folder the cell's process works in
    go(suite("b"), store, jobs=1)
    assert store.cells().set_index("variant").loc["b", "threads"] == 1  # the smoke budget's
    assert LocalLauncher(2).threads == max(1, launchers.cores() // 2) and LocalLauncher(1).threads == launchers.cores()
    assert LocalLauncher(10 * launchers.cores()).threads == 1


def test_a_crash_is_tried_again_from_where_it_stood_and_then_reported(tmp_path, monkeypatch):
    for variant, behaviour in (("once", "crash-once"), ("ever", "crash"), ("shot", "kill"), ("bad", "refuse")):
        monkeypatch.setenv(f"FAKE_{variant}", behaviour)
    store, which = Store(tmp_path), suite("once", "ever", "shot", "bad", "fine")
    outcome, told = go(which, store)
    once, ever, shot, bad, fine = which.cells
    assert set(outcome.done) == {once.name, fine.name} and set(outcome.failed) == {ever.name, shot.name, bad.name}
    assert [starts(store, cell) for cell in which.cells] == [2, 2, 2, 1, 1]  # what refuses would refuse again
    assert outcome.failed[ever.name] == "RuntimeError: broken pipe of thought"
    assert "RuntimeError" in status(store, ever)["stderr"] and status(store, ever)["step"] == 2
    assert "SIGKILL" in outcome.failed[shot.name] and "memory" in outcome.failed[shot.name]
    assert "about to be killed" in status(store, shot)["stderr"]
    assert outcome.failed[bad.name] == "the loss is nan at step 2"
    assert status(store, once)["state"] == "done" and "to be tried again" in told
    assert dict(store.cells().set_index("variant")["state"]) == {
        **{name: "failed" for name in ("ever", "shot", "bad")},
        **{name: "done" for name in ("once", "fine")},
    }
    outcome, _ = go(which, store)  # what failed before gets one more attempt in another run
    assert [starts(store, cell) for cell in which.cells] == [2, 3, 3, 2, 1] and len(outcome.skipped) == 2


def test_a_process_that_hangs_is_ended_and_its_cell_tried_again(tmp_path, monkeypatch):
    """It says that it is alive all the while: its main thread sleeps."""
    monkeypatch.setenv("FAKE_a", "hang-once")
    monkeypatch.setattr(launchers, "GRACE_S", 0.5)
    outcome, told = go(suite("a"), Store(tmp_path), hung=2.0)
    assert outcome.done == ["a/sr-x2/seed-0"] and starts(Store(tmp_path), suite("a").cells[0]) == 2
    assert re.search(r"failed \(its process did nothing for \d+ s and was ended\), to be tried again", told)


def test_memory_that_runs_out_is_told_with_its_remedy(tmp_path, monkeypatch):
    """Others go on, and the cell has a row that says what to change."""
    monkeypatch.setenv("FAKE_a", "memory")
    store, which = Store(tmp_path), suite("a", "b")
    outcome, _ = go(which, store)
    assert outcome.done == ["b/sr-x2/seed-0"]
    assert outcome.failed["a/sr-x2/seed-0"].endswith("(--set accumulate=2 trains on half as much at a time)")
    assert store.cells().set_index("variant").loc["a", "reason"] == outcome.failed["a/sr-x2/seed-0"]


def test_a_cell_that_ends_well_without_results_has_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_a", "nothing")
    outcome, _ = go(suite("a"), Store(tmp_path))
    assert list(outcome.failed) == ["a/sr-x2/seed-0"]


def test_warnings_of_cells_are_said_once_and_filed(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_a", "warn")
    monkeypatch.setenv("FAKE_b", "warn")
    store, which = Store(tmp_path), suite("a", "b")
    _, told = go(which, store, jobs=1)
    assert [line for line in told.splitlines() if "another way" in line] == ["a/sr-x2/seed-0: it goes on another way"]
    for cell in which.cells:
        content = json.loads((store.cell_folder(cell.config()) / "environment.json").read_text())
        assert content["notes"] == ["it goes on another way"]


def test_a_cell_scored_on_part_of_a_set_goes_on_when_more_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_a", "partial")
    there = ["baby"]
    monkeypatch.setattr("suites.data.find", lambda name, data: SimpleNamespace(files=dict.fromkeys(there)))
    store, which = Store(tmp_path), suite("a")
    (cell,) = which.cells
    outcome, told = go(which, store)
    assert outcome.done == [cell.name] and "done, scored on 1 of 3 images of Set5, after" in told
    outcome, _ = go(which, store)
    assert outcome.skipped == [cell.name] and "1 of 3 images of Set5" in outcome.lines()[1] and starts(store, cell) == 1
    there.append("bird")
    outcome, told = go(which, store)
    assert outcome.done == [cell.name] and "2 of 3 images" in told and starts(store, cell) == 2
    assert engine.plan(which, store)[0] == (cell, "done", "scored on 2 of 3 images of Set5")


def test_where_a_loss_diverged_is_filed(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_a", "diverge")
    store, which = Store(tmp_path), suite("a")
    go(which, store)
    stored = status(store, which.cells[0])
    assert (stored["state"], stored["step"], stored["loss"]) == ("failed", 2, "nan") and "stderr" in stored


def test_what_no_process_could_run_is_refused_before_any_starts(tmp_path):
    store, which = Store(tmp_path / "runs"), suite("a")
    with pytest.raises(BackendError, match="unknown scan backend 'foo'"):
        go(which, store, backend="foo")
    (cell,) = which.cells
    for changed, error, words in (
        ({"variant": replace(cell.variant, overrides={"scans": 3})}, ModelError, "scans must be"),
        ({"variant": replace(cell.variant, overrides={"scan": 1})}, SpecError, "no argument 'scan'"),
        ({"budget": replace(cell.budget, precision="tf32")}, ModelError, "tf32 needs a CUDA device"),
    ):
        with pytest.raises(error, match=words):
            go(replace(which, cells=(cell, replace(cell, seed=1, **changed))), store)
    assert not store.root.exists()


def test_damaged_cells_are_made_good(tmp_path):
    store, which = Store(tmp_path), suite("a", seeds=(0, 1, 2, 3))
    go(which, store)
    folders = [store.cell_folder(cell.config()) for cell in which.cells]
    (folders[0] / "config.json").write_text("{")
    (folders[1] / "status.json").write_text("{")
    (folders[2] / "weights.safetensors").unlink()
    (folders[2] / "scores.parquet").unlink()
    assert [planned.state for planned in engine.plan(which, store)][1:] == ["failed", "failed", "done"]
    (folders[0] / "status.json").unlink()
    outcome, _ = go(which, store)
    assert len(outcome.done) == 3 and set(store.cells()["state"]) == {"done"}


def test_a_damaged_configuration_of_a_finished_cell_heals_and_is_told_with_its_remedy(tmp_path):
    store, which = Store(tmp_path), suite("a")
    go(which, store)
    path = store.cell_folder(which.cells[0].config()) / "config.json"
    whole = path.read_bytes()
    for damaged in (b"{", b'{"seed": 1}'):
        path.write_bytes(damaged)
        assert "run the suite of this cell again" in store.cells()["problem"].iloc[0]
        outcome, _ = go(which, store)
        assert outcome.skipped == ["a/sr-x2/seed-0"] and path.read_bytes() == whole
        assert store.cells()["problem"].isna().all()


def test_time_that_is_up_leaves_cells_for_the_same_command(tmp_path):
    store, which = Store(tmp_path), suite("a", "b", "c")
    outcome, _ = go(which, store, jobs=1, seconds=1e-3)
    assert outcome.ok and outcome.stopped == {cell.name: "not begun" for cell in which.cells}
    assert "3 stopped, which the same command continues" in outcome.lines()[0] and "not begun" in outcome.lines()[1]
    assert set(go(which, store)[0].done) == {cell.name for cell in which.cells}


def test_several_cells_of_a_process_end_each_for_itself(tmp_path, monkeypatch):
    """One is done, one crashes and is tried again alone, one is refused."""
    monkeypatch.setenv("FAKE_b", "crash-once")
    monkeypatch.setenv("FAKE_c", "refuse")
    store, which = Store(tmp_path), suite("a", "b", "c", "d")
    outcome, _ = go(which, store, jobs=1, concurrent=4)
    assert sorted(outcome.done) == ["a/sr-x2/seed-0", "b/sr-x2/seed-0", "d/sr-x2/seed-0"]
    assert list(outcome.failed) == ["c/sr-x2/seed-0"]
    assert [starts(store, cell) for cell in which.cells] == [1, 2, 1, 1]


def test_no_variant_falls_to_one_process_seed_after_seed():
    """Six variants, four seeds, two processes: each process gets every variant twice, and half of every seed."""
    cells = [(seed, variant) for seed in range(4) for variant in "abcdef"]
    groups = engine.dealt(cells, 2)
    assert sorted([*groups[0], *groups[1]]) == cells
    for group in groups:
        assert sorted(variant for _, variant in group) == sorted("abcdef" * 2)
        assert sorted(seed for seed, _ in group) == sorted([0, 1, 2, 3] * 3)
    assert engine.dealt(cells, 1) == [cells] and engine.dealt(cells, 24) == [[cell] for cell in cells]


def test_a_cell_that_had_not_begun_when_its_process_died_has_lost_no_attempt(tmp_path, monkeypatch):
    store, which = Store(tmp_path), suite("a", "b")
    for variant in "ab":
        monkeypatch.setenv(f"FAKE_{variant}", "refuse")
    go(which, store)
    monkeypatch.setenv("FAKE_a", "kill")
    monkeypatch.setenv("FAKE_b", "")
    outcome, told = go(which, store, jobs=1, concurrent=2)
    assert list(outcome.failed) == ["a/sr-x2/seed-0"] and outcome.done == ["b/sr-x2/seed-0"]
    assert [starts(store, cell) for cell in which.cells] == [2, 2] and "seed-0: started again" in told


def test_a_cell_that_another_engine_works_on_is_left_alone(tmp_path):
    store, which = Store(tmp_path), suite("a", "b")
    folder = store.open_cell(which.cells[0].config())
    with locks.hold(folder):
        store.write_status(folder, "running", step=1)
        outcome, _ = go(which, store)
        assert list(outcome.busy) == ["a/sr-x2/seed-0"] and str(os.getpid()) in outcome.busy["a/sr-x2/seed-0"]
        # Taken between the plan and the start: the cell's own process finds out.
        store.write_status(folder, "planned")
        outcome, _ = go(which, store)
        assert list(outcome.busy) == ["a/sr-x2/seed-0"] and starts(store, which.cells[0]) == 0
    outcome, _ = go(which, store)
    assert outcome.done == ["a/sr-x2/seed-0"]


DRIVER = """
import sys
from pathlib import Path
from unittest.mock import Mock
sys.path[:0] = [{root!r}, {here!r}]
sys.modules["suites.execution.preflight"] = Mock()  # what it checks takes torch, and seconds
from results.store import Store
from suites.execution import engine
from fake_cell import FAKE, suite
outcome = engine.run(suite({variants}), Store({store!r}), jobs=2, program=FAKE)
print(len(outcome.done), len(outcome.skipped), len(outcome.busy))
"""


def drive(store: Path, *variants: str, **environment: str) -> subprocess.Popen:
    """An engine in a process of its own, in a session of its own, working somewhere else."""
    here = Path(__file__).resolve().parent
    named = ", ".join(map(repr, variants))
    code = DRIVER.format(root=str(here.parents[2]), here=str(here), store=str(store), variants=named)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd="/",
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_two_engines_at_once_run_every_cell_once(tmp_path):
    variants = [f"v{number}" for number in range(4)]
    engines = [drive(tmp_path / "runs", *variants, FAKE_SLEEP="0.05") for _ in range(2)]
    told = [process.communicate(timeout=90)[0] for process in engines]
    done = sum(int(text.splitlines()[-1].split()[0]) for text in told)
    assert [process.returncode for process in engines] == [0, 0], told
    store = Store(tmp_path / "runs")
    assert [starts(store, cell) for cell in suite(*variants).cells] == [1] * 4
    assert set(store.cells()["state"]) == {"done"} and done >= 4


def wait_for(condition, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def running_pids(store: Store, which: Suite) -> list[int]:
    files = [store.cell_folder(cell.config()) / "runs.txt" for cell in which.cells]
    return [int(line) for file in files if file.exists() for line in file.read_text().splitlines()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_stops_the_cells_and_the_next_run_continues(tmp_path, number):
    store, which = Store(tmp_path / "runs"), suite("a", "b")
    process = drive(store.root, "a", "b", FAKE_a="hang", FAKE_b="hang")
    wait_for(lambda: len(running_pids(store, which)) == 2)
    time.sleep(0.3)
    process.send_signal(number)
    told, _ = process.communicate(timeout=30)
    assert process.returncode != 0 and "stopping 2 cells" in told and "KeyboardInterrupt" in told
    assert not any(map(alive, running_pids(store, which)))
    assert {status(store, cell)["state"] for cell in which.cells} == {"planned"}
    stored = status(store, which.cells[0])
    assert stored["step"] == 2 and stored["reason"].startswith("interrupted at step 2;")  # of the log
    outcome, _ = go(which, store)
    assert len(outcome.done) == 2


def test_cells_of_a_killed_engine_end_and_their_locks_are_stale(tmp_path, monkeypatch):
    store, which = Store(tmp_path / "runs"), suite("a", iterations=1000)
    process = drive(store.root, "a", FAKE_a="hang")
    which = suite("a")
    wait_for(lambda: running_pids(store, which))
    process.kill()
    process.communicate(timeout=10)
    (pid,) = running_pids(store, which)
    wait_for(lambda: not alive(pid), seconds=20)  # it notices by itself that nobody reads
    assert engine.plan(which, store)[0].state == "planned"
    outcome, _ = go(which, store)
    assert outcome.done == ["a/sr-x2/seed-0"]


def test_a_store_that_cannot_be_written_is_said_before_anything_starts(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space is left"):
        go(suite("a"), store)
    assert store.cells().empty or starts(store, suite("a").cells[0]) == 0


def test_a_disk_that_fills_up_ends_the_run_and_stops_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_a", "full")
    monkeypatch.setenv("FAKE_b", "hang")
    store, which = Store(tmp_path), suite("a", "b", "c")
    with pytest.raises(StoreError, match="no space is left"):
        go(which, store)
    assert not any(map(alive, running_pids(store, which))) and starts(store, which.cells[2]) == 0
    assert dict(store.cells().set_index("variant")["state"]) == {"a": "failed", "b": "planned", "c": "planned"}
    monkeypatch.delenv("FAKE_a")
    monkeypatch.delenv("FAKE_b")
    assert len(go(which, store)[0].done) == 3


def test_options_that_make_no_sense(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(EngineError, match=r"--gpus 2 needs --device cuda"):
        go(suite("a"), store, gpus=2)
    with pytest.raises(EngineError, match="sees 0 GPUs"):
        go(suite("a"), store, gpus=2, device="cuda")
    with pytest.raises(EngineError, match=r"--jobs 0"):
        go(suite("a"), store, jobs=0)
    with pytest.raises(SpecError, match=r"a/sr-x2/seed-0: a batch of 1 equal part cannot be shared by 2 processes"):
        go(suite("a"), store, processes=2)
    with pytest.raises(EngineError, match="--concurrent shares one among cells"):
        go(suite("a"), store, processes=2, concurrent=2)
    with pytest.raises(SpecError, match="unknown way to sum gradients 'tree': choose from in-order, all-reduce"):
        go(suite("a"), store, processes=2, sums="tree")
    with pytest.raises(EngineError, match="unknown launcher 'ray'"):
        go(suite("a"), store, launch="ray")
    with pytest.raises(SpecError, match="two cells of the name a/sr-x2/seed-0"):
        engine.plan(suite("a", "a"), store)
    assert store.cells()["state"].tolist() in ([], ["planned"])


def test_plain_lines_and_an_honest_time_left(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SLEEP", "0.1")
    monkeypatch.setattr("suites.progress.LINE_S", 0.5)
    monkeypatch.setattr("suites.progress.SETTLED_S", 0.5)
    _, told = go(suite("a", "b", iterations=15), Store(tmp_path), jobs=1)
    lines = told.splitlines()
    assert "\x1b" not in told and any("not measured yet" in line for line in lines)
    guesses = [line for line in lines if re.search(r"(at least|about) \d+ s left", line)]
    assert "at least" in guesses[0] and "about" in guesses[-1]  # about: once a whole cell has been seen


def test_live_bars_on_a_terminal(tmp_path):
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=120)
    go(suite("a"), Store(tmp_path), console=console)
    assert "\x1b" in told.getvalue() and "a/sr-x2/seed-0: done" in told.getvalue()


def test_verify_says_whether_the_bits_are_the_same(tmp_path):
    store, which = Store(tmp_path / "runs"), suite("a", seeds=(0, 1))
    go(which, store)
    quiet = Console(file=io.StringIO())
    result = verify("a/sr-x2/seed-1", store, program=FAKE, console=quiet)
    assert result.ok and result.differences == {"Set5": 0.0} and result.machine == []
    folder = store.cell_folder(which.cells[0].config())
    content = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**content, "device": "a faster one"}))
    store.write_status(folder, "done", step=3, weights="other", expected={"Set5": 1})
    result = verify(folder.name, store, program=FAKE, console=quiet)
    assert not result.ok and not result.same_weights and "a faster one then, fake now" in result.machine[0]
    with pytest.raises(StoreError, match="no cell"):
        verify("b", store, program=FAKE)
    folder = store.open_cell(suite("b").cells[0].config())
    with pytest.raises(StoreError, match="not done"):
        verify(folder.name, store, program=FAKE)
