"""Cells' processes without the seconds in which each would load PyTorch: forked from a server that has it.

`tests/suites/execution/test_cell.py` starts them as a user's command does.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.resource_sharer import DupFd
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from suites.execution import engine, launchers, worker


def _go(arguments: list[str], folder: Path, environment: dict[str, str], out: DupFd, errors: DupFd) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(out.detach(), 1)
    os.dup2(errors.detach(), 2)
    sys.exit(worker.main(arguments))


class Forked:
    """What `launchers.LocalJob` needs of a `subprocess.Popen` of the engine's program."""

    def __init__(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], stderr: IO[bytes], **_: Any
    ) -> None:
        program = len(engine.PROGRAM)
        assert tuple(command[:program]) == engine.PROGRAM
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["suites.execution.work", "torch._dynamo"])
        read, write = os.pipe()
        given = list(command[program:]), cwd, dict(env), DupFd(write), DupFd(stderr.fileno())
        self._process = context.Process(target=_go, args=given)
        self._process.start()
        os.close(write)
        self.stdout, self.pid = os.fdopen(read, "rb"), self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a cell", timeout)
        return self._process.exitcode


@contextmanager
def forked_cells() -> Iterator[None]:
    """Within: the engine of this process starts cells so."""
    with pytest.MonkeyPatch.context() as patch:
        names = ("PIPE", "DEVNULL", "TimeoutExpired", "run")
        kept = {name: getattr(subprocess, name) for name in names}
        patch.setattr(launchers, "subprocess", SimpleNamespace(Popen=Forked, **kept))
        yield
