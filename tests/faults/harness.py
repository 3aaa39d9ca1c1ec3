"""Processes that are killed at random moments, and a disk that can be filled.

FAULTS is how many moments of every kind are tried (`make faults` says 50), FAULTS_SEED which; FAULTS_LOG names a file
that gets a JSON line per kind.
"""

import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

COUNT, SEED = int(os.environ.get("FAULTS", "1")), int(os.environ.get("FAULTS_SEED", "0"))
Say = Callable[[Any], None]
Work = Callable[..., None]  # work(folder, say): `say` tells what is finished for good


def _go(pipe: Connection, work: Work, folder: Path) -> None:
    pipe.send(None)
    work(folder, pipe.send)


def run(work: Work, folder: Path, after: float | None = None) -> tuple[list[Any], float, bool]:
    """`work` in a process of its own, killed -9 `after` seconds from its beginning, if it is still at work then.

    Returns what it said, how long it worked, and whether it was killed. Raises AssertionError when it failed by itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__, "torch._dynamo", "reports.pages.html"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_go, args=(theirs, work, folder))
    process.start()
    theirs.close()
    ours.recv()
    begun = time.monotonic()
    process.join(after)
    killed = process.exitcode is None
    if killed:
        process.kill()
        process.join()
    seconds, said = time.monotonic() - begun, []
    try:
        while True:
            said.append(ours.recv())
    except EOFError:
        pass
    assert killed or process.exitcode == 0
    return said, seconds, killed


def kill_often(kind: str, work: Work, folders: Path, check: Callable[[Path, list[Any]], None]) -> None:
    """Kills `work` at COUNT random moments, in a folder each, and calls `check(folder, what it had said)`."""
    seconds = run(work, folders / "undisturbed")[1]
    moments = np.random.default_rng([SEED, *kind.encode()]).uniform(0, seconds, COUNT)
    hits = 0
    for number, moment in enumerate(moments):
        folder = folders / f"kill-{number}"
        said, _, killed = run(work, folder, after=float(moment))
        hits += killed
        check(folder, said)
    log(kind, tried=COUNT, killed=hits, seed=SEED, seconds_of_work=round(seconds, 3))


def log(kind: str, **facts: Any) -> None:
    if path := os.environ.get("FAULTS_LOG"):
        with open(path, "a") as file:
            file.write(json.dumps({"kind": kind, **facts}) + "\n")


@contextmanager
def small_disk(folder: Path, size: str = "4m") -> Iterator[Callable[[str], None]]:
    """A file system of its own at `folder`; yields what remounts it ("ro", "rw"). Skips the test where it may not."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a file system in memory (root)")
    try:
        yield lambda how: subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all space that is left."""
    ballast = folder / ".ballast"
    try:
        with open(ballast, "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass
    return ballast
