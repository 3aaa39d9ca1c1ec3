"""A sweep files every point at once, goes on where it stood, and makes a row of whatever happens to a process."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from results.costs import lines
from suites.benchmark.sweep import command, driver, process, quiet
from suites.benchmark.sweep.points import Point, processes
from suites.interruption import interruptible
from suites.spec import SpecError

CHILD = Path(__file__).with_name("child.py")
MACHINE = {"device": "a", "device_type": "cpu", "threads": 1, "versions": {"torch": "1"}, "commit": "c"}


def point(subject: str, side: int = 64) -> Point:
    return Point(subject, side, side, "fp32", "cpu")


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The points that were begun, a line each."""
    monkeypatch.setattr(process, "COMMAND", [sys.executable, str(CHILD)])
    monkeypatch.setattr(process, "TICK_S", 0.01)
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def swept(root: Path, points: list[Point], limit: float = 30.0, seconds: float = 1e9) -> tuple[dict, list[str]]:
    """(rows by subject and height, lines that were said) of a sweep that ended."""
    said: list[str] = []
    writer = lines.Writer(lines.place(root, MACHINE), MACHINE)
    try:
        driver.Sweep(points, writer, torch.device("cpu"), 0, seconds, limit, said.append).run()
    finally:
        writer.close()
    rows = lines.read(writer.path).rows.values()
    return {(row["subject"], row["height"]): row for row in rows}, said


def test_whatever_happens_to_a_process_is_a_row_and_the_rest_goes_on(tmp_path, log):
    points = [point("a"), point("slow"), point("slow", 128), point("crash"), point("crash", 128), point("oom")]
    points += [point("oom", 128), point("CARN"), point("b")]
    rows, said = swept(tmp_path, points, limit=0.6)
    found = {key: row["status"] for key, row in rows.items()}
    assert found == {
        **{("a", 64): "ok", ("b", 64): "ok", ("slow", 64): "timeout", ("slow", 128): "skipped"},
        **{("crash", 64): "failed", ("crash", 128): "failed", ("oom", 64): "oom", ("oom", 128): "skipped"},
        ("CARN", 64): "missing",
    }
    assert "SIGSEGV" in rows["crash", 64]["reason"] and "0.6 s" in rows["slow", 64]["reason"]
    assert "64x64 did not fit" in rows["oom", 128]["reason"] and "spandrel" in rows["CARN", 64]["reason"]
    assert said[-1].startswith("[9/9]") and "left" in said[1]
    begun = log.read_text().splitlines()
    again, _ = swept(tmp_path, points, limit=0.6)
    repeated = log.read_text().splitlines()[len(begun) :]
    assert repeated == ["crash 64", "crash 128"] and again.keys() == rows.keys()  # only what may end otherwise


def test_it_ends_with_its_seconds_and_leaves_the_rest_for_the_same_command(tmp_path, log):
    points = [point("a", side) for side in (16, 32)] + [point("slow"), point("b")]
    rows, _ = swept(tmp_path, points, seconds=1.5)
    assert rows["slow", 64]["status"] == "interrupted" and "--seconds" in rows["slow", 64]["reason"]
    assert ("b", 64) not in rows
    rows, _ = swept(tmp_path, [points[0], points[-1]])
    assert rows["b", 64]["status"] == "ok"


def test_time_that_ends_while_a_process_imports_is_no_error(tmp_path, log, monkeypatch):
    monkeypatch.setattr(process, "COMMAND", [sys.executable, "-c", "import time; time.sleep(60)"])
    rows, _ = swept(tmp_path, [point("a")], seconds=0.2)
    assert not rows and not log.exists()


def test_seconds_that_are_too_few_for_one_point_are_told_with_how_many_it_needs(tmp_path, log, monkeypatch):
    monkeypatch.setattr(command, "of_preset", lambda *_: [point("slow"), point("slow", 128)])
    monkeypatch.setattr(command.environment, "describe", lambda *_: {**MACHINE, "versions": {}})
    monkeypatch.setattr(command.environment, "examine", dict)
    ask = {"seconds": 0.5, "say": lambda _: None}
    found = command.run("resolution", tmp_path, "cpu", limit=30.0, **ask | {"seconds": 1.5})
    assert found.ok and found.left == 2 and "too little for one point" in (told := found.lines()[1])
    assert "slow 64x64 fp32 eager was not done" in told and told.endswith(("31", "32"))  # seconds
    assert found.lines()[2:] == ["2 points left: with so many seconds the same command goes on with them"]
    monkeypatch.setattr(command, "of_preset", lambda *_: [point("a"), point("slow")])
    found = command.run("resolution", tmp_path, "cpu", **ask | {"seconds": 2.0})
    assert found.ok and found.left == 1 and found.short is None
    found = command.run("resolution", tmp_path, "cpu", **ask)  # it is filed: what is left has no time known
    assert found.ok and "up to 600 s" in found.short
    monkeypatch.setattr(command, "of_preset", lambda *_: [point("a"), point("a", 6400)])
    found = command.run("resolution", tmp_path, "cpu", **ask)  # by the first one's time: it is not begun
    assert "One takes about 101 s" in found.short and "128" not in found.short
    monkeypatch.setattr(command, "of_preset", lambda *_: [point("crash")])
    assert not command.run("resolution", tmp_path, "cpu", **ask | {"seconds": 1e9}).ok


def test_a_network_is_proved_once_for_all_its_processes_and_later_commands(tmp_path, log):
    swept(tmp_path, [point("a", 16), point("b", 16), point("a", 32)])
    rows, _ = swept(tmp_path, [point("a", 64), point("b", 16)])
    assert {height: rows["a", height]["check"]["small"] for height in (16, 32, 64)} == dict.fromkeys(
        (16, 32, 64), "proved at 16"
    )


def sweep_of_twelve(root: Path) -> None:
    with interruptible():
        swept(root, [point("a", side) for side in range(1, 13)])


def started(root: Path) -> multiprocessing.Process:
    """A command of its own, forked because importing PyTorch takes longer than the test."""
    command = multiprocessing.get_context("fork").Process(target=sweep_of_twelve, args=(root,))
    command.start()
    return command


@pytest.mark.parametrize("how", [(signal.SIGKILL, signal.SIGKILL), (signal.SIGTERM, signal.SIGINT)])
def test_killed_twice_it_goes_on(tmp_path, log, how):
    file = lines.place(tmp_path, MACHINE)

    def statuses() -> list[str]:
        written = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        return [json.loads(line)["row"]["status"] for line in written if line.startswith(b'{"row"')]

    for number in how:
        enough, command = statuses().count("ok") + 3, started(tmp_path)
        end = time.monotonic() + 60
        while statuses().count("ok") < enough and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(command.pid, number)
        command.join(30)
        assert enough <= statuses().count("ok") < 12
    with open(file, "ab") as torn:
        torn.write(b'{"row": {"key": "12')  # a kill while a line was written
    last = started(tmp_path)
    last.join(60)
    assert last.exitcode == 0
    rows = lines.read(file).rows.values()
    assert sorted(row["height"] for row in rows if row["status"] == "ok") == list(range(1, 13))
    assert len(log.read_text().splitlines()) <= 12 + len(how)  # nothing that was filed is measured again
    assert ("interrupted" in statuses()) == (signal.SIGKILL not in how)


def test_a_process_has_the_points_of_one_network():
    a, b = point("mambair"), point("mambairv2-light")
    training = Point("mambair", 64, 64, "fp32", "cpu", mode="training")
    assert processes([a, point("mambair", 32), b, a, training]) == [[a, point("mambair", 32)], [b], [a], [training]]


def test_points_are_named_by_network_or_pattern_the_first_named_first():
    training = Point("mambair", 64, 64, "fp32", "cpu", mode="training")
    points = [point("a"), point("a", 128), point("b"), training, point("mambair", 128)]
    assert command.named(points, "b, *128x128*,a") == [points[2], points[1], points[4], points[0]]
    assert command.named(points, "mambair *training*") == [training] == command.named(points, training.name)
    with pytest.raises(SpecError, match=r"unknown c: .* a, b, mambair"):
        command.named(points, "a,c")
    with pytest.raises(SpecError, match=r"no point is called \*256\*"):
        command.named(points, "*256*")


def test_on_a_gpu_processes_import_together_while_nothing_is_timed_and_none_is_left(tmp_path, log, monkeypatch):
    made, events = [], []

    class Watched(process.Process):
        def __init__(self, *arguments) -> None:
            made.append(self)
            events.append("begun")
            super().__init__(*arguments)

        def wait(self, late) -> None:
            super().wait(late)
            events.append("imported")

    monkeypatch.setattr(driver, "Process", Watched)
    points = [point(subject) for subject in ("a", "crash", "b", "c", "d", "e")]
    writer = lines.Writer(lines.place(tmp_path, MACHINE), MACHINE)

    def say(line: str) -> None:
        events.append("measured")

    driver.Sweep(points, writer, torch.device("cuda"), 1, 1e9, 30.0, say).run()
    writer.close()
    assert log.read_text().split()[::2] == ["a", "crash", "b", "c", "d", "e"]
    turns = [
        word for number in (driver.AT_ONCE, 2) for word in ("begun", "imported", "measured") for _ in range(number)
    ]
    assert events == turns and len(made) == len(points)
    assert all(child.process.poll() is not None for child in made)


def test_a_slot_is_sampled_as_the_gpu_that_it_runs_on(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1")
    assert [process.physical(torch.device("cuda"), slot) for slot in (0, 1)] == ["3", "1"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert process.physical(torch.device("cuda", 2), 1) == "3"
    samples = [(float(at), {"index": float(gpu), "clocks.sm": 100.0 * gpu}) for at in range(3) for gpu in range(4)]
    sampler = quiet.Sampler(samples)
    assert sampler.of("3", 0, 2)["clock_mhz"] == 300 and sampler.of("GPU-5", 0, 2) is None


def test_work_on_another_gpu_is_no_noise():
    gpus = [{"index": "0", "memory.used": "9000"}, {"index": "1", "memory.used": "4"}]
    start = {"cores": 8, "gpus": gpus, "used": ["1"]}
    assert quiet.noise({"median_ms": None}, start) == []
    assert quiet.noise({"median_ms": None}, start | {"used": ["0", "1"]}) == ["9000 MiB of GPU 0 were in use before"]
    assert quiet.noise({"load": 3.0}, start) == []  # two besides ours for eight cores
    assert quiet.noise({"load": 4.0}, start) == ["load of 4.0 on 8 cores"]
