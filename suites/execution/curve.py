"""Learning curves: seeds of one recipe trained side by side in one process, their weights scored on the way.

    python -m suites.execution.curve FOLDER --data DATA [--precision tf32x3] [--seeds 0,1,2] [--at 100,250,...]
    [--seconds S]

The seeds share a GPU (`suites.training.concurrent`), and their weights are scored by processes beside the training.
FOLDER gets seed-N/ (log, checkpoints, weights of the iterations asked for), scores.csv (a row for each image) and
curve.json (where, with what and how it was made). Stopped by --seconds or anything else, the same command goes on from
there.

The recipe is the official light x2 network's (batch 32, LR patch 64, Adam 2e-4 constant, L1, flips and rotations) on
the pictures of BSDS500-train, BSDS500-test and T91: what the official code was trained on for its own curve.
"""

import argparse
import itertools
import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

import models
from models.ops.scan import resolve
from results import records
from suites import environment
from suites.commandline import add_data, guard
from suites.data import find
from suites.evaluation.evaluate import evaluate
from suites.execution.preflight import check_cells, check_data
from suites.recipes import parse_seeds
from suites.spec import Budget, Cell, Protocol, SpecError, Task, Variant
from suites.training.concurrent import Abreast, Beside, keep_weights
from suites.training.state import Run
from suites.training.step import determinism

TASK = Task("sr", 2)
TRAIN_SETS, TEST_SETS = ("bsds500-train", "bsds500-test", "t91"), ("set5", "set14")
AT = (100, 250, 500, 1000, 1500, 2000, 2500, 3000)
SCORERS = 3  # processes


def cell_of(seed: int, iterations: int, precision: str) -> Cell:
    budget = Budget("reduced", iterations, precision=precision, checkpoint_every=iterations)
    return Cell(Variant("base", "mambairv2-light"), TASK, seed, budget, TRAIN_SETS, TEST_SETS, Protocol.official(TASK))


def score(cell: Cell, weights: Path, iteration: int, data: Path | None, device: str) -> pd.DataFrame:
    """PSNR and SSIM of every test image with these weights, in plain float32 whatever they were trained in."""
    model = models.build(cell.variant.model, **cell.task.network | cell.variant.overrides)
    models.load_weights(model, weights)
    model.to(device).eval()
    frames = [evaluate(model, cell.task, find(name, data), cell.protocol, device=device) for name in cell.test_sets]
    frame = pd.concat(frames)[["dataset", "image", "psnr", "ssim"]]
    return frame.assign(seed=cell.seed, iteration=iteration)[["seed", "iteration", *frame.columns]]


class Curve(Abreast):
    """Runs that advance together, and the scores of their weights as these come in."""

    def __init__(self, cells: Sequence[Cell], at: Sequence[int], folder: Path, data: Path | None, device: str) -> None:
        super().__init__(device, data)
        self.cells, self.at, self.folder = cells, sorted(at), folder
        self.scores = folder / "scores.csv"

    def follow(self, seconds: float) -> None:
        """Trains until the last iteration or until `seconds` have passed, and scores all weights kept."""
        with Beside(SCORERS if self.device.type == "cuda" else 1) as self.scorers:
            self.submit()
            places = [(cell, self.path(cell.seed, 0).parent) for cell in self.cells]
            self.train(places, len(places), time.monotonic() + seconds)
            self.collect(float("inf"))

    def marks(self, cell: Cell) -> Collection[int]:
        return self.at

    def marked(self, run: Run) -> None:
        keep_weights(run, self.path(run.cell.seed, run.step))
        run.save()
        self.submit()

    def watched(self) -> None:
        self.collect()
        if self.lanes:
            print(self.line(), flush=True)

    def path(self, seed: int, iteration: int) -> Path:
        return self.folder / f"seed-{seed}" / f"step-{iteration:06d}.safetensors"

    def submit(self) -> None:
        for cell, iteration in self.unscored():
            arguments = cell, self.path(cell.seed, iteration), iteration, self.data, str(self.device)
            self.scorers.submit((cell.seed, iteration), score, *arguments)

    def collect(self, until: float | None = None) -> None:
        for (seed, iteration), future in self.scorers.results(until):
            if (error := future.exception()) is not None:
                print(f"seed {seed} iteration {iteration} is not scored: {error}", flush=True)
                continue
            frame = future.result()
            known = [pd.read_csv(self.scores)] if self.scores.exists() else []
            text = pd.concat([*known, frame]).to_csv(index=False, float_format="%.6f")
            records.write_bytes(self.scores, text.encode())
            means = frame.groupby("dataset")["psnr"].mean()
            told = "  ".join(f"{name} {value:.3f} dB" for name, value in means.items())
            print(f"seed {seed} iteration {iteration}: {told}", flush=True)

    def unscored(self) -> list[tuple[Cell, int]]:
        """Cells and iterations whose weights are there and have no scores yet."""
        known = pd.read_csv(self.scores, usecols=["seed", "iteration"]) if self.scores.exists() else pd.DataFrame()
        scored = set(known.itertuples(index=False, name=None))
        pairs = itertools.product(self.cells, self.at)
        return [(c, i) for c, i in pairs if (c.seed, i) not in scored and self.path(c.seed, i).exists()]


def iterations(text: str) -> list[int]:
    """ "100,250" -> [100, 250]. Raises SpecError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise SpecError(f"--at {text!r}: give iterations with commas between, such as 100,250,3000")
    return [int(part) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m suites.execution.curve", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    add_data(parser)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--at", default=",".join(map(str, AT)), help="iterations to score, the last one ends")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long; go on another time")
    parser.add_argument("--device")
    options = parser.parse_args()
    at, device = iterations(options.at), environment.choose_device(options.device)
    cells = [cell_of(seed, max(at), options.precision) for seed in parse_seeds(options.seeds)]
    check_data(cells, options.data)
    check_cells(cells, "auto", device)
    options.folder.mkdir(parents=True, exist_ok=True)
    with determinism(True):
        curve = Curve(cells, at, options.folder, options.data, device)
        facts = environment.describe(device, resolve("auto", curve.device)) | {
            "command": environment.command(),
            "started": records.now(),
            "cells": [cell.config() for cell in cells],
        }
        path = options.folder / "curve.json"
        earlier = json.loads(path.read_text())["runs"] if path.exists() else []
        records.write_json(path, {"runs": [*earlier, facts]})
        curve.follow(options.seconds)


if __name__ == "__main__":
    guard(main)
