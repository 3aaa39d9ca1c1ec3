"""A child process of a sweep, from outside: started, told what to do, listened to, ended."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from suites.benchmark.sweep.points import Point

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-m", "suites.benchmark.sweep.child"]
TICK_S = 0.1
KEPT = 2000  # characters of what it wrote to its errors


def physical(device: torch.device, slot: int) -> str:
    """What nvidia-smi calls the GPU of a slot, counted from `device`: its index, or as CUDA_VISIBLE_DEVICES says it."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    number = slot + (device.index or 0)
    return visible[number] if visible else str(number)


class Process:
    """`python -m suites.benchmark.sweep.child`, which sees one GPU only. It imports at once and waits for an order."""

    def __init__(self, device: torch.device, gpu: int, threads: int | None = None) -> None:
        variables = dict(os.environ)
        if device.type == "cuda":
            variables["CUDA_VISIBLE_DEVICES"] = physical(device, gpu)
        if threads is not None:
            variables["OMP_NUM_THREADS"] = str(threads)
        self.device = device.type
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # A session of its own: Ctrl-C at the terminal reaches the parent alone, which then says what became of it.
        self.process = subprocess.Popen(COMMAND, cwd=ROOT, env=variables, text=True, start_new_session=True, **pipes)
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.errors = ""
        self.readers = [threading.Thread(target=read, daemon=True) for read in (self._listen, self._keep_errors)]
        for reader in self.readers:
            reader.start()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _keep_errors(self) -> None:
        for line in self.process.stderr:
            self.errors = (self.errors + line)[-KEPT:]

    def order(self, what: str, points: Sequence[Point], proved: dict[str, Any] | None = None) -> None:
        """what: of suites.benchmark.sweep.child. proved: the check at the small size that the point has passed."""
        told = {"do": what, "device": self.device, "points": [asdict(point) for point in points], "proved": proved}
        with suppress(BrokenPipeError):  # it died: `messages` ends at once, and `ending` says how
            self.process.stdin.write(json.dumps(told) + "\n")
            self.process.stdin.flush()

    def wait(self, late: Callable[[], bool]) -> None:
        """Until it has imported what it needs, so that this is no part of a point's time."""
        self.order("nothing", ())
        for _ in self.messages(late):
            pass

    def messages(self, late: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """What it says until it is done, dies, or `late()`: then it is killed."""
        while True:
            try:
                line = self.lines.get(timeout=TICK_S)
            except queue.Empty:
                if late():
                    self.kill()
                    return
                continue
            if line is None:
                self.lines.put(None)  # for whoever asks it next
                return
            yield (message := json.loads(line))
            if "done" in message:
                return

    def ending(self) -> str:
        """How it ended, in words, with the last line that it wrote to its errors."""
        end = time.monotonic() + 5
        while self.process.poll() is None and time.monotonic() < end:
            time.sleep(TICK_S)
        code = self.process.poll()
        text = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"status {code}"
        said = [line for line in self.errors.splitlines() if line.strip()]
        return text + (f": {said[-1].strip()[:300]}" if said else "")

    def kill(self) -> None:
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
