"""What is killed: training, checkpoints, rows, an import, a page, scores, ...; all functions of (folder, say)."""

import ctypes
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import models
from models.ops import native
from reports.pages import report as page
from results import measured, records
from results.archive import import_into
from results.costs import lines
from results.store import Store
from suites.benchmark.sweep import driver, process
from suites.benchmark.sweep.points import Point
from suites.evaluation.scoring import score
from suites.spec import Budget, Cell, Protocol, Task, Variant, protocol_for
from suites.training import checkpoints, trainer
from tests.faults.harness import COUNT
from tests.results.test_store import MACHINE, key, rows

SR = Task("sr", 2)
BUDGET = Budget("smoke", 24, batch=2, patch=8, lr=1e-3, milestones=(12,), checkpoint_every=3)
CELL = Cell(Variant("small", "mambairv2-tiny"), SR, 0, BUDGET, ("own",), ("own",), Protocol.official(SR))
IMAGES = [np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)]
PAGES = [letter.encode() * 3_000_000 for letter in "ab"]  # as long as a report


class Small(nn.Module):
    """Two convolutions: what is killed is the trainer."""

    def __init__(self, upscale: int, **_: object) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3 * upscale**2, 3, padding=1)
        self.upscale = upscale

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.last(self.first(x).relu()), self.upscale)


def train(folder: Path, say=lambda step: None, hooks: trainer.Hooks | None = None) -> None:
    torch.set_num_threads(1)
    before = models.build, models.initialise
    models.build = lambda name, backend, **arguments: Small(**arguments)
    models.initialise = lambda model, seed: [nn.init.constant_(tensor, 0.01) for tensor in model.parameters()]
    hooks = hooks or trainer.Hooks(on_sync=lambda runs: say(runs[0].step))
    try:
        trainer.train_cells([(CELL, folder)], lambda names: IMAGES, hooks=hooks)
    finally:
        models.build, models.initialise = before


def state(step: int) -> dict:
    return {"step": step, "weights": torch.arange(20_000.0) + step}


def keep(folder: Path, say) -> None:
    for step in range(1, 31):
        checkpoints.save(folder, state(step))
        say(step)


STEMS = [f"image-{number}" for number in range(10)]


def write(folder: Path, say) -> None:
    """A record, image by image."""
    store = Store(folder)
    for stem in STEMS:
        store.add_evaluation(key(), rows(stem), MACHINE, expected=len(STEMS))
        say(stem)


def bring(folder: Path, say) -> None:
    """Imports the archive beside the folder."""
    import_into(Store(folder), folder.parent / "theirs.tar")


def publish(folder: Path, say) -> None:
    for number in range(20):
        records.write_bytes(folder / "report.html", PAGES[number % 2])
        say(number)


FORMS = ("md",) if COUNT == 1 else ("html", "md", "tex")  # HTML alone takes four seconds


def report(folder: Path, say) -> None:
    """Writes the whole report of a store anew, in FORMS; nothing is committed beside it."""
    measured.FOLDER = folder.parent / "nothing committed"
    store = Store(folder)
    store.add_evaluation(key(), rows("baby", "bird", "butterfly", "head", "woman"), MACHINE, expected=5)
    for form in FORMS:
        if not (folder / f"report.{form}").exists():
            records.write_bytes(folder / f"report.{form}", b"the page of yesterday")
    say(None)
    for form in FORMS:
        page.write(store, form)
        say(form)


SWEPT = [Point("a", side, side, "fp32", "cpu") for side in range(1, 13)]
SWEEPER = {"device": "a", "device_type": "cpu", "threads": 1, "versions": {"torch": "1"}, "commit": "c"}


def sweep(folder: Path, say) -> None:
    """A sweep of twelve points by processes that do as a network's do (tests/suites/benchmark/sweep/child.py)."""
    child = Path(__file__).parents[1] / "suites" / "benchmark" / "sweep" / "child.py"
    folder.mkdir(exist_ok=True)
    os.environ["SWEEP_LOG"] = str(folder / "begun")
    process.COMMAND, process.TICK_S = [sys.executable, str(child)], 0.01
    writer = lines.Writer(lines.place(folder, SWEEPER), SWEEPER)
    try:
        driver.Sweep(SWEPT, writer, torch.device("cpu"), 0, 1e9, 30.0, say).run()
    finally:
        writer.close()


def evaluate(folder: Path, say) -> None:
    """Scores a baseline on the pictures beside the folder, as `evaluate` and `sweep` do."""
    score("bicubic", SR, ["Set5"], protocol_for("bicubic", SR), data=folder.parent / "data", store=Store(folder))


def build(folder: Path, say) -> None:
    """Compiles the smaller part of the native library, without optimising, into a cache of its own."""
    os.environ["XDG_CACHE_HOME"] = str(folder)
    native.SOURCES, native.FLAGS = [path for path in native.SOURCES if path.stem == "noise"], ("-std=c++17", "-fPIC")
    ctypes.CDLL(str(native.build()))
    say(None)


def draw(folder: Path) -> None:
    (folder / "Set5").mkdir(parents=True)
    for stem in ("baby", "bird", "butterfly", "head", "woman"):
        pixels = np.random.default_rng(len(stem)).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "Set5" / f"{stem}.png")
