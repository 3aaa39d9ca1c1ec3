"""Kernels compiled before anything is timed, by many processes at a time, into Triton's cache.

A file in the cache says of which networks it holds them, so that a command that goes on compiles nothing again.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from results import records
from suites.benchmark.sweep.points import Point
from suites.benchmark.sweep.process import Process
from suites.execution import kernel_cache

REFERENCE = "fp32"  # what other precisions are compared with, so compiled for each
SIZES = ((64, 64), (256, 256))  # of pictures: kernels of larger ones are the same


def ways(points: Sequence[Point]) -> list[Point]:
    """One point for each network, mode and precision that has kernels to compile, in the order of `points`."""
    found: dict[tuple, Point] = {}
    for point in (point for point in points if point.backend == "triton"):
        for precision in (point.precision, REFERENCE):
            way = replace(point, precision=precision)
            found.setdefault((way.subject, way.task, way.mode, way.precision), way)
    return list(found.values())


def name(way: Point) -> str:
    return f"{way.subject} {way.task} {way.mode} {way.precision}"


def mark() -> Path:
    """The file that lists the names of what is in the cache."""
    return kernel_cache.mark("sweep", str(SIZES))


def compiled_before() -> list[str]:
    """The names in `mark`; none where it is missing or damaged: then all is compiled again, and the file replaced."""
    try:
        names = json.loads(mark().read_bytes())
    except (FileNotFoundError, ValueError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def compile_all(chosen: Sequence[Point], device: torch.device, gpus: int, late: Callable[[], bool]) -> dict[str, Any]:
    """Calls every one of `ways` once, small; what takes until `late()` is left to the first call that is measured.

    Returns {"seconds", "processes", "asked", "networks": {name: seconds}, "failed": {name: how its process ended}}.
    """
    start, seconds, failed = time.monotonic(), {}, {}
    jobs = max(1, min(len(chosen), (os.cpu_count() or 2) - 2))

    def one(number: int, way: Point) -> None:
        begun = time.monotonic()
        sizes = SIZES if way.mode == "inference" else ((way.height, way.width),)
        with Process(device, number % max(1, gpus), threads=1) as process:
            process.order("compile", [replace(way, height=height, width=width) for height, width in sizes])
            if any("done" in message for message in process.messages(late)):
                seconds[name(way)] = round(time.monotonic() - begun, 2)
            else:
                failed[name(way)] = "not in time" if late() else process.ending()

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(one, *job) for job in enumerate(chosen)]:
            future.result()
    if seconds:
        records.write_json(mark(), sorted({*compiled_before(), *seconds}))
    took = round(time.monotonic() - start, 2)
    return {"seconds": took, "processes": jobs, "asked": len(chosen), "networks": seconds, "failed": failed}
