"""What is swept: points in order of importance, and how they are grouped into processes.

A point is a network (of the catalogue with overrides, or a peer by its name) at an input size and batch, in a mode, a
precision, a scan backend and a launch mode. Neighbours of one network share a process, whose memory is its own.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import torch

from models.ops import scan
from results import records
from results.published import parse_overrides
from suites.benchmark import SWEEPS
from suites.benchmark.sweep import peers
from suites.data import manifest
from suites.spec import Task, check_choice

FULL_HD, UHD = (360, 640), (2160, 3840)  # the input behind the paper's 720x1280 output at x2, and one of 8K output
SIZES = ((64, 64), (128, 128), (256, 256), FULL_HD, (512, 512), (720, 1280), (1024, 1024), (2048, 2048), UHD)
CPU_SIZES = ((64, 64), (96, 96), (128, 128), (192, 192), (256, 256))
GRAPHED = 720 * 1280  # pixels up to which a call is one CUDA graph; beyond it no launch is waited for
FILLS = 64  # images of 64x64 that fill a GPU
STEP = ((64, 64), 32)  # of training, as the paper trains x2
NTIRE = (256, 256)  # input whose multiply-adds the challenge counts, at x4
# Sets whose pictures the challenge's protocol restores whole; its own set is DIV2K's and LSDIR's.
WHOLE = {"cuda": "Urban100", "cpu": "Set5"}
LIGHT, BASE, OLD = "mambairv2-light", "mambairv2-base", "mambair-light"
DIRECTIONS = (f"{LIGHT} scans=4", f"{LIGHT} scans=2", f"{LIGHT} scans=0")
PARTS = (f"{LIGHT} sgn=off", f"{LIGHT} ase=off")


@dataclass(frozen=True)
class Point:
    """subject: a catalogue model, overrides after it, or a name of `peers.PEERS`. height, width: of the input.

    precision: of suites.spec.PRECISIONS. backend: of the scan, "none" for a peer. launch: "eager" or "graph".
    pictures: a set whose pictures are restored whole, one after the other; height and width are then of the largest.
    """

    subject: str
    height: int
    width: int
    precision: str
    backend: str
    launch: str = "eager"
    mode: str = "inference"
    batch: int = 1
    task: str = "sr-x2"
    pictures: str = ""

    @property
    def key(self) -> str:
        return records.key_of(self._told())

    def _told(self) -> dict[str, Any]:
        """Its fields; without `pictures` where there is no set, as points were before there were sets."""
        return {name: value for name, value in asdict(self).items() if name != "pictures" or value}

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every input: of each picture of its set, or its own."""
        return inputs_of(self.pictures, task_of(self).scale) if self.pictures else [(self.height, self.width)]

    @property
    def pixels(self) -> int:
        """Input pixels of one call; of a set, of the call on its largest picture."""
        return self.height * self.width * self.batch

    @property
    def name(self) -> str:
        batch = f" x{self.batch}" if self.batch > 1 else ""
        mode = "" if self.mode == "inference" else f" {self.mode}"
        backend = "" if self.backend in ("triton", "cpu", "none") else f" {self.backend}"
        size = self.pictures or f"{self.height}x{self.width}"
        return f"{self.subject} {size}{batch}{mode} {self.precision}{backend} {self.launch}"

    @property
    def series(self) -> tuple:
        """What it shares with the points that differ from it in size alone."""
        return self.subject, self.task, self.mode, self.batch, self.precision, self.backend, self.pictures

    @property
    def model(self) -> str:
        return self.subject.split()[0]

    @property
    def overrides(self) -> dict[str, Any]:
        return parse_overrides(self.subject.partition(" ")[2])

    def facts(self) -> dict[str, Any]:
        """The columns of a row that say what it is about."""
        rest = {name: value for name, value in self._told().items() if name != "subject"}
        return {"key": self.key, "model": self.model, "overrides": self.overrides, **rest, "routing": "gumbel"}


def of_preset(preset: str, device: torch.device) -> list[Point]:
    """Every point of a preset, the most important first. Raises SpecError for an unknown preset."""
    check_choice("preset", preset, SWEEPS)
    if preset == "ntire":
        found = ntire(device)
    else:
        found = resolution_on_gpu() if device.type == "cuda" else resolution_on_cpu(device)
    return list(dict.fromkeys(found))


def sized(subject: str, sizes: Iterable[tuple[int, int]], precisions: Sequence[str], **rest: Any) -> Iterator[Point]:
    """Inference on one image of each size, in each precision; size by size, so that a reference serves all of one."""
    if subject in peers.PEERS:
        rest = {"backend": "none", "launch": "eager", **rest}
    for height, width in sizes:
        for precision in precisions:
            launch = "graph" if height * width <= GRAPHED else "eager"
            yield Point(subject, height, width, precision, **{"backend": "triton", "launch": launch, **rest})


def resolution_on_gpu() -> Iterator[Point]:
    to_full, to_hd, to_square = SIZES[:4], SIZES[:6], SIZES[:7]
    whole, one = ("tf32x3", "bf16"), ("tf32x3",)
    for subject in (LIGHT, OLD):
        yield from sized(subject, SIZES, whole)
    for subject in DIRECTIONS:
        yield from sized(subject, to_square, one)
    for subject in (LIGHT, OLD):
        yield from sized(subject, (FULL_HD, (720, 1280)), ("fp32",), backend="mamba_ssm", launch="eager")
        yield from sized(subject, (FULL_HD,), ("fp32", "tf32x3"), launch="eager")  # beside it, launched alike
    yield from sized(BASE, to_hd, whole)
    for subject in peers.PEERS:
        yield from sized(subject, to_full, ("fp32",))
    for subject in PARTS:
        yield from sized(subject, to_hd, one)
    for subject in (LIGHT, OLD, *DIRECTIONS[::2]):
        yield from training(subject, whole if subject in (LIGHT, OLD) else one)
    for subject in ("swinir-light", "srformer-light", "hat"):
        yield from sized(subject, SIZES[4:6], ("fp32",))
    for subject in (LIGHT, OLD):
        yield from sized(subject, to_hd, ("fp32",))
        yield from sized(subject, to_full, whole, launch="eager")
        yield from sized(subject, SIZES[:1], whole, batch=FILLS)
    for subject in ("mambairv2-small", "mambair", "mambairv2-large"):
        yield from sized(subject, to_full, whole)
    yield from sized(BASE, SIZES[6:], ("bf16",))
    for subject in DIRECTIONS:
        yield from sized(subject, SIZES[7:], one)
    for subject in peers.PEERS:
        yield from sized(subject, to_hd, ("fp32", "bf16"))
    yield from sized(BASE, SIZES[:1], whole, batch=FILLS)
    yield from training(BASE, whole)
    yield from missing()


def training(subject: str, precisions: Sequence[str]) -> Iterator[Point]:
    """A step at a patch and batch of the paper's; a base network's at the batch that one of eight GPUs had."""
    size, batch = STEP
    for precision in precisions:
        number = 4 if subject == BASE else batch
        launch = "eager" if subject == OLD else "graph"  # it draws at random in training, which no graph repeats
        yield Point(subject, *size, precision, "triton", launch, "training", number)


def resolution_on_cpu(device: torch.device) -> Iterator[Point]:
    backend = scan.resolve("auto", device)
    for sizes in (CPU_SIZES[:3], CPU_SIZES[3:4], CPU_SIZES[4:]):  # the small ones of all before a large one of any
        for subject in (LIGHT, OLD, *DIRECTIONS, *PARTS):
            yield from sized(subject, sizes, ("fp32",), backend=backend, launch="eager")
    yield from missing()


def ntire(device: torch.device) -> Iterator[Point]:
    """The efficiency track's protocol: x4, float32, eager, an input of 256x256 and the whole pictures of a set."""
    backend, pictures = scan.resolve("auto", device), WHOLE[device.type]
    *_, largest = inputs_of(pictures, 4)
    for subject in (LIGHT, OLD, *peers.PEERS):
        own = {"launch": "eager", "task": "sr-x4"} | ({} if subject in peers.PEERS else {"backend": backend})
        yield from sized(subject, (NTIRE,), ("fp32",), **own)
        yield from sized(subject, (largest,), ("fp32",), pictures=pictures, **own)
    yield from missing("sr-x4", NTIRE)


def inputs_of(pictures: str, scale: int) -> list[tuple[int, int]]:
    """(height, width) of the degraded pictures of a set that ships a manifest, the largest last."""
    sizes = [(entry.height // scale, entry.width // scale) for entry in manifest.read(pictures).values()]
    return sorted(sizes, key=math.prod)


def missing(task: str = "sr-x2", size: tuple[int, int] = FULL_HD) -> Iterator[Point]:
    """A row for each method of the published tables that cannot be built here; it says why."""
    for method in peers.MISSING:
        yield Point(method, *size, "fp32", "none", task=task)


def processes(chosen: Sequence[Point]) -> list[list[Point]]:
    """Neighbours of one network, one task and one mode: what a process measures."""
    groups = groupby(chosen, lambda point: (point.subject, point.task, point.mode))
    return [list(group) for _, group in groups]


def task_of(point: Point) -> Task:
    return Task.parse(point.task)
