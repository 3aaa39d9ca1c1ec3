"""Whether a machine was quiet while something was timed: clocks, other work, load. What is not known is not claimed."""

import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

FIELDS = ("index", "clocks.sm", "clocks.max.sm", "temperature.gpu", "power.draw", "utilization.gpu", "memory.used")
PERIOD_MS = 500
BUSY_MIB = 1024  # in use on a GPU before we start: somebody else is there
SLOW = 0.9  # of the fastest clock seen at work: below it the GPU was held back
LOAD = 0.3  # runnable processes beside ours, per core
SPREAD = 0.1  # (p90 - p10) / median of the readings


@dataclass
class Sampler:
    """nvidia-smi's figures of all GPUs, twice a second, while it is open; nothing where there is no nvidia-smi."""

    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    process: subprocess.Popen | None = None

    def __enter__(self) -> "Sampler":
        if shutil.which("nvidia-smi"):
            command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
            command.append(f"--loop-ms={PERIOD_MS}")
            quiet = {"stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL, "start_new_session": True}
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **quiet)
            threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def _read(self) -> None:
        for line in self.process.stdout:
            values = {}
            for name, text in zip(FIELDS, line.split(","), strict=False):
                try:
                    values[name] = float(text)
                except ValueError:
                    continue  # [N/A]
            if "index" in values:
                self.samples.append((time.time(), values))

    def of(self, gpu: str, since: float, until: float) -> dict[str, float] | None:
        """Median clock, highest temperature and mean power of one GPU in a time; None where nothing was sampled.

        gpu: its index; of one named otherwise (by a UUID) nothing is known.
        """
        own = [s for at, s in list(self.samples) if since <= at <= until and f"{s['index']:.0f}" == gpu]
        at_work = [s for s in own if s.get("utilization.gpu", 0) > 0] or own
        if not at_work:
            return None
        found = {"clock_mhz": statistics.median(s.get("clocks.sm", 0.0) for s in at_work)}
        found["clock_max_mhz"] = max(s.get("clocks.max.sm", 0.0) for s in at_work)
        found["temperature"] = max(s.get("temperature.gpu", 0.0) for s in at_work)
        powers = [s["power.draw"] for s in at_work if "power.draw" in s]
        return found | ({"watts": sum(powers) / len(powers)} if powers else {})


def before(used: Sequence[str]) -> dict[str, Any]:
    """What others do before we start: the load, and memory and use of every GPU; `used`: those that we take."""
    found: dict[str, Any] = {"load": os.getloadavg(), "cores": len(os.sched_getaffinity(0)), "used": list(used)}
    if used and shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
        text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
        found["gpus"] = [dict(zip(FIELDS, map(str.strip, line.split(",")), strict=False)) for line in text.splitlines()]
    return found


def noise(row: dict[str, Any], start: dict[str, Any]) -> list[str]:
    """Why the time of a row is not one of a quiet machine, in words; empty where nothing speaks against it.

    start: what `before` found. The row has its readings' quantiles, and where known `gpu` and `load`, of a GPU's row
    where it was launched kernel by kernel.
    """
    told = []
    if row.get("median_ms"):
        spread = (row["p90_ms"] - row["p10_ms"]) / row["median_ms"]
        if spread > SPREAD:
            told.append(f"readings spread by {spread:.0%}")
    sampled = row.get("gpu") if row.get("measure_s", 0.0) > 2 * PERIOD_MS / 1e3 else None  # else no sample at work
    if sampled and sampled["clock_mhz"] < SLOW * sampled["clock_max_mhz"]:
        told.append(f"clock at {sampled['clock_mhz']:.0f} of {sampled['clock_max_mhz']:.0f} MHz")
    for gpu in (gpu for gpu in start.get("gpus", ()) if gpu.get("index") in start["used"]):
        used = gpu.get("memory.used", "0")
        if used.replace(".", "").isdigit() and float(used) > BUSY_MIB:
            told.append(f"{float(used):.0f} MiB of GPU {gpu['index']} were in use before")
    if row.get("load") is not None:
        extra = (row["load"] - row.get("threads", 1)) / start["cores"]
        if extra > LOAD:
            told.append(f"load of {row['load']:.1f} on {start['cores']} cores")
    return told
