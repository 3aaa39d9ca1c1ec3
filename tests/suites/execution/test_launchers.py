"""Where cells run: this machine's processes and GPUs, and a cluster, tried on submitit's local stand-in for one."""

import os
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from results.store import Store
from suites.execution import engine, launchers
from suites.execution.launchers import EngineError, LocalLauncher, SubmititLauncher, stop_all
from tests.suites.execution.test_engine import alive, go, no_data, running_pids, starts, status, suite, wait_for

__all__ = ["no_data"]  # used by every test here


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def finish(job: launchers.Job) -> int:
    wait_for(lambda: job.poll() is not None)
    return job.poll()


def test_events_exit_status_and_errors_of_a_process():
    code = """
import sys
print('{"event": "a"}\\nnot one\\n[1]')
sys.stderr.write("x" * 9000 + "end")
sys.exit(7)
"""
    job = LocalLauncher(1).start(python(code), 0)
    assert finish(job) == 7 and job.events() == [{"event": "a"}] and job.events() == []
    assert job.errors().endswith("xend") and len(job.errors()) <= launchers.TAIL_BYTES


def test_slots_are_spread_over_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    code = "import os, json; print(json.dumps({'event': os.environ['CUDA_VISIBLE_DEVICES']}))"
    for chosen, names in ((None, ["0", "1", "0"]), ("4,5,7", ["4", "5", "4"])):
        if chosen:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        else:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        jobs = [LocalLauncher(3, gpus=2).start(python(code), slot) for slot in range(3)]
        assert [finish(job) for job in jobs] == [0, 0, 0]
        assert [job.events()[0]["event"] for job in jobs] == names
    with pytest.raises(EngineError, match=r"--gpus 4: PyTorch sees 3 GPUs here"):
        LocalLauncher(3, gpus=4)
    with pytest.raises(EngineError, match="the first must be a multiple of the second"):
        LocalLauncher(1, gpus=3, processes=2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert LocalLauncher(2, gpus=4, processes=2).gpus == ["0,1", "2,3"]


def test_stopping_ends_a_process_that_will_not_and_its_children(monkeypatch):
    monkeypatch.setattr(launchers, "GRACE_S", 0.5)
    code = """
import json, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(60)"])
time.sleep(0.5)
print(json.dumps({"event": [os.getpid(), child.pid]}), flush=True)
time.sleep(60)
"""
    job = LocalLauncher(1).start(python(code), 0)
    events = []
    wait_for(lambda: events.extend(job.events()) or events)
    assert all(map(alive, events[0]["event"]))
    stop_all([job])
    wait_for(lambda: not any(map(alive, events[0]["event"])), seconds=5)
    assert job.poll() == -9


def test_cells_on_a_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_b", "crash")
    monkeypatch.setenv("FAKE_c", "kill")
    store, which = Store(tmp_path), suite("a", "b", "c")
    outcome, _ = go(which, store, launch="submitit", cluster="local", jobs=3)
    assert outcome.done == ["a/sr-x2/seed-0"] and set(outcome.failed) == {"b/sr-x2/seed-0", "c/sr-x2/seed-0"}
    assert [starts(store, cell) for cell in which.cells] == [1, 2, 2]
    assert "SIGKILL" in outcome.failed["c/sr-x2/seed-0"]
    assert "about to be killed" in status(store, which.cells[2])["stderr"]
    assert set(store.cells()["state"]) == {"done", "failed"} and len(store.cells()) == 3


def test_interrupting_a_run_cancels_its_cluster_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_a", "hang")
    store, which = Store(tmp_path), suite("a")

    def interrupt_once_running(seconds: float) -> None:
        time.sleep(0.05)
        if running_pids(store, which):
            raise KeyboardInterrupt

    clock = SimpleNamespace(sleep=interrupt_once_running, monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr(engine, "time", clock)
    with pytest.raises(KeyboardInterrupt):
        go(which, store, launch="submitit", cluster="local")
    wait_for(lambda: not any(map(alive, running_pids(store, which))))
    assert engine.plan(which, store)[0].state == "planned"


def test_a_preempted_job_frees_its_lock_and_is_queued_again(tmp_path, monkeypatch):

    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(3)); print('{}', flush=True); time.sleep(60)"
    )
    cell = launchers.ClusterCell(python(code), tmp_path / "events", tmp_path / "errors")
    ended = []
    thread = threading.Thread(target=lambda: ended.append(cell()))
    thread.start()
    wait_for(lambda: (tmp_path / "events").exists() and (tmp_path / "events").read_text())
    again = cell.checkpoint()
    thread.join(10)
    assert ended == [3] and again.function.command == cell.command


def test_without_submitit_or_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineError, match="no SLURM here"):
        SubmititLauncher(tmp_path, 1, gpu=False)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(EngineError, match=r"pip install -e '\.\[cluster\]'"):
        SubmititLauncher(tmp_path, 1, gpu=False)
    with pytest.raises(EngineError, match="each process gets a GPU"):
        go(suite("a"), Store(tmp_path), launch="submitit", gpus=1)
    assert "PYTHONPATH" not in os.environ or str(tmp_path) not in os.environ["PYTHONPATH"]
