"""Learning curves: seeds of one recipe trained side by side in one process, their weights scored on the way.

    python -m suites.curve FOLDER --data DATA [--precision tf32x3] [--seeds 0,1,2] [--at 100,250,...] [--seconds S]

On a GPU every seed has a stream of its own, so that the kernels of one fill what those of another leave free; the bits
are those of seeds trained one by one. Weights are scored by processes beside the training. FOLDER gets seed-N/ (log,
checkpoints, weights of the iterations asked for), scores.csv (a row for each image) and curve.json (where, with what
and how it was made). Stopped by --seconds or anything else, the same command goes on where it last kept weights.

The recipe is the official light x2 network's (batch 32, LR patch 64, Adam 2e-4 constant, L1, flips and rotations) on
the pictures of BSDS500-train, BSDS500-test and T91: what the official code was trained on for its own curve.
"""

import argparse
import copy
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch

import models
from models.scan import resolve
from results import records
from suites import environment
from suites.data import find
from suites.data.training import load_training
from suites.evaluation import evaluate
from suites.pool import Pool
from suites.progress import duration
from suites.sampling import prefetch
from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training import Run, determinism, identify, log_every

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


class Curve:
    """Runs that advance together, and the scores of their weights as these come in."""

    def __init__(self, cells: Sequence[Cell], at: Sequence[int], folder: Path, data: Path | None, device: str) -> None:
        self.cells, self.at, self.folder, self.data, self.device = cells, sorted(at), folder, data, torch.device(device)
        self.scores = folder / "scores.csv"
        images = load_training(cells[0].train_sets, data)
        pool = Pool(images, cells[0].task, cells[0].budget.patch, cells[0].budget.batch, 0, self.device)
        self.pools, self.runs, self.streams = [], [], []
        for cell in cells:
            place = folder / f"seed-{cell.seed}"
            place.mkdir(parents=True, exist_ok=True)
            model = models.build(cell.variant.model, **cell.task.network | cell.variant.overrides)
            models.initialise(model, cell.seed)
            model.to(self.device).train()
            run = Run(cell, model, identify(cell, images), place, self.device, resolve("auto", self.device))
            run.restore()
            self.runs.append(run)
            own = copy.copy(pool)  # the pictures are the same
            own.seed = cell.seed
            self.pools.append(own)
            self.streams.append(torch.cuda.Stream() if self.device.type == "cuda" else None)
        if len({run.step for run in self.runs}) > 1:
            raise SystemExit(f"error: the seeds in {folder} stand at different iterations: remove that folder")

    def fetch(self, step: int) -> list[dict]:
        return [pool.fetch(step) for pool in self.pools]

    def advance(self, fetched: list[dict]) -> None:
        """One iteration of every seed."""
        for run, pool, stream, part in zip(self.runs, self.pools, self.streams, fetched, strict=True):
            with torch.cuda.stream(stream):
                run.advance(pool.batch(part))

    def read(self, elapsed: float) -> list[float]:
        """Waits for the device and logs. Returns the mean losses since the last line."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        losses = []
        for run in self.runs:
            run.read()
            run.seconds += elapsed
            losses.append(run.write_line()[0])
        return losses

    def path(self, seed: int, iteration: int) -> Path:
        return self.folder / f"seed-{seed}" / f"step-{iteration:06d}.safetensors"

    def keep_weights(self) -> None:
        for run in self.runs:
            tensors = {name: t.detach().cpu().contiguous() for name, t in run.model.state_dict().items()}
            records.write_bytes(self.path(run.cell.seed, run.step), safetensors.torch.save(tensors))

    def unscored(self) -> list[tuple[Cell, int]]:
        """Cells and iterations whose weights are there and have no scores yet."""
        known = pd.read_csv(self.scores, usecols=["seed", "iteration"]) if self.scores.exists() else pd.DataFrame()
        scored = set(known.itertuples(index=False, name=None))
        pairs = itertools.product(self.cells, self.at)
        return [(c, i) for c, i in pairs if (c.seed, i) not in scored and self.path(c.seed, i).exists()]

    def file(self, frame: pd.DataFrame) -> None:
        frame.to_csv(self.scores, mode="a", header=not self.scores.exists(), index=False, float_format="%.6f")


def follow(curve: Curve, seconds: float) -> None:
    """Trains until the last iteration or until `seconds` have passed, and scores all weights kept."""
    start = last = time.monotonic()
    began, total = curve.runs[0].step, curve.at[-1]
    every = min(50, log_every(curve.cells[0].budget))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(SCORERS if curve.device.type == "cuda" else 1, mp_context=context) as scorers:
        pending: dict[tuple[int, int], Future] = {}

        def submit() -> None:
            for cell, iteration in curve.unscored():
                if (cell.seed, iteration) not in pending:
                    arguments = cell, curve.path(cell.seed, iteration), iteration, curve.data, str(curve.device)
                    pending[cell.seed, iteration] = scorers.submit(score, *arguments)

        def collect(wait: bool) -> None:
            for pair, future in list(pending.items()):
                if wait or future.done():
                    frame = future.result()
                    curve.file(frame)
                    means = frame.groupby("dataset")["psnr"].mean()
                    told = "  ".join(f"{name} {value:.3f} dB" for name, value in means.items())
                    print(f"seed {pair[0]} iteration {pair[1]}: {told}", flush=True)
                    del pending[pair]

        submit()
        with closing(prefetch(curve.fetch, range(began + 1, total + 1))) as steps:
            for fetched in steps:
                curve.advance(fetched)
                step = curve.runs[0].step
                if step % every and step not in curve.at:
                    continue
                losses = curve.read(time.monotonic() - last)
                last = time.monotonic()
                if step in curve.at:
                    curve.keep_weights()
                    for run in curve.runs:
                        run.save()
                    submit()
                collect(wait=False)
                pace = (last - start) / (step - began)
                shown = " ".join(f"{loss:.5f}" for loss in losses)
                left = duration(min(pace * (total - step), max(0.0, seconds - (last - start))))
                each = f"{pace / len(losses) * 1e3:.1f} ms a step"
                print(f"iteration {step}/{total}  loss {shown}  {each}  {left} left", flush=True)
                if last - start > seconds:
                    break
        if began < curve.runs[0].step:
            for run in curve.runs:
                run.save()
        collect(wait=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m suites.curve", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--at", default=",".join(map(str, AT)), help="iterations to score, the last one ends")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long; go on another time")
    parser.add_argument("--device")
    options = parser.parse_args()
    at, device = [int(i) for i in options.at.split(",")], environment.choose_device(options.device)
    cells = [cell_of(int(seed), max(at), options.precision) for seed in options.seeds.split(",")]
    options.folder.mkdir(parents=True, exist_ok=True)
    with determinism(True):
        curve = Curve(cells, at, options.folder, options.data, device)
        facts = environment.describe(device, curve.runs[0].circumstances["backend"])
        facts |= {
            "command": " ".join(["python -m suites.curve", *sys.argv[1:]]),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "from_iteration": curve.runs[0].step,
            "cells": [cell.config() for cell in cells],
        }
        path = options.folder / "curve.json"
        earlier = json.loads(path.read_text())["runs"] if path.exists() else []
        records.write_json(path, {"runs": [*earlier, facts]})
        follow(curve, options.seconds)


if __name__ == "__main__":
    main()
