"""The pilot: the cells of its recipe, several at a time on one GPU, their weights scored in several ways.

    python -m suites.execution.pilot STORE --data DATA [--seconds S] [--abreast 4] [--scorers 6] [--budget smoke]
    python -m suites.execution.pilot STORE --export MACHINE/NAME

Finished cells lie in STORE like any others. Beside the last weights, a cell's folder keeps those of half its iterations
(half.safetensors: the last at the first learning rate) and the uniform average of ours over the last tenth
(average.safetensors), and scores-<weights>-<seed>.parquet for each of them under every seed of the Gumbel noise.
Stopped by --seconds or anything else, the same command goes on with all cells where they stand.

--export commits what is finished: as `runner.py export` does, and MACHINE/NAME.csv.xz with all the scores.
"""

import argparse
import lzma
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pandas as pd
import safetensors.torch

import models
from models.ops.scan import resolve
from results import export as commit
from results import locks, records
from results.store import Store, StoreError
from suites import environment, recipes
from suites.commandline import add_data, guard
from suites.data import find
from suites.evaluation.evaluate import evaluate
from suites.execution import worker
from suites.execution.preflight import check_cells, check_data
from suites.progress import counted
from suites.spec import Budget, Cell, Suite
from suites.training.concurrent import Abreast, Beside, keep_weights
from suites.training.state import Run
from suites.training.step import TrainingError, determinism

WEIGHTS = {"last": "weights.safetensors", "average": "average.safetensors", "half": "half.safetensors"}
GUMBEL = (0, 1, 2, 3)  # seeds of the routing noise
STORED = "last", 0  # what the cell's own table of scores holds
COLUMNS = ("hash", "weights", "gumbel", "dataset", "image", "psnr", "ssim", "seconds")


def half(budget: Budget) -> int:
    return budget.iterations // 2


def sampled(budget: Budget) -> range:
    """Iterations whose weights are averaged: 12 in the last tenth, every 50th of 6,000; fewer in a very short run."""
    total = budget.iterations
    return range(total, total - max(1, total // 10), -max(1, total // 120))


def draws_noise(cell: Cell) -> bool:
    """Whether a score of the cell depends on the seed of the routing noise: MambaIR, for one, has no router."""
    return models.capabilities_of(worker.scored_network(cell, "auto")).routed and cell.protocol.routing == "gumbel"


def score(cell: Cell, weights: Path, gumbel: int, data: Path | None, device: str) -> pd.DataFrame:
    """The rows of all of the cell's test sets with these weights, under its protocol with this seed of the noise."""
    with determinism(True):
        model = worker.scored_network(cell, "auto")
        models.load_weights(model, weights)
        model.to(device).eval()
        protocol = replace(cell.protocol, seed=gumbel)
        options = {"device": device, "labels": cell.variant.labels}
        sets = [evaluate(model, cell.task, find(name, data), protocol, **options) for name in cell.test_sets]
        return pd.concat(sets, ignore_index=True)


def scores_path(folder: Path, weights: str, gumbel: int) -> Path:
    return folder / f"scores-{weights}-{gumbel}.parquet"


class Pilot(Abreast):
    """The cells of `suite` that `store` has not finished, trained, scored and filed."""

    def __init__(
        self, suite: Suite, store: Store, data: Path | None, device: str, width: int, scorers: int, command: str
    ) -> None:
        super().__init__(device, data)
        self.store, self.width, self.processes = store, width, scorers
        self.cells = {cell.name: cell for cell in suite.cells}
        self.folders = {name: store.cell_folder(cell.config()) for name, cell in self.cells.items()}
        self.noisy = {name: draws_noise(cell) for name, cell in self.cells.items()}
        self.machine = environment.describe(device, resolve(self.backend, self.device))
        self.machine |= {"deterministic": True, "command": command, "started": records.now()}
        self.machine |= {"abreast": width, "scorers": scorers}
        self.environments: dict[str, worker.Environment] = {}  # of cells that are not done
        self.wrong: dict[tuple[str, str, int], str] = {}  # what could not be scored, and why
        self.lost: list[str] = []  # cells that cannot be trained: the same seed would go wrong again
        self.notes = worker.Notes(lambda event, **details: None)

    def follow(self, seconds: float) -> bool:
        """Works until all is done or for so long (and as much longer as calls take that have begun).

        Returns whether all is done. Raises StoreError when the store cannot be written.
        """
        until = time.monotonic() + seconds
        with ExitStack() as locked, Beside(self.processes) as self.scorers:
            ours = []
            for name, cell in self.cells.items():
                if not self.missing(name):
                    continue
                status = self.store.status(self.folders[name])
                if status["state"] == "failed":
                    self.lost.append(name)
                    print(f"{name}: {status['reason']}; delete {self.folders[name]} to train it anew", flush=True)
                    continue
                try:
                    self.store.open_cell(cell.config())
                    locked.enter_context(locks.hold(self.folders[name]))
                except locks.LockedError as error:
                    print(f"{name}: {error}", flush=True)
                else:
                    ours.append(name)
                    self._open(name)
            untrained = [name for name in ours if not (self.folders[name] / WEIGHTS["last"]).exists()]
            self.train([(self.cells[name], self.folders[name]) for name in untrained], self.width, until)
            self.collect(self.scorers.results(until))
            self.collect(self.scorers.last())
        return not any(self.missing(name) for name in self.cells)

    def missing(self, name: str) -> list[tuple[str, int]]:
        """The scores (weights, seed of the noise) that a cell lacks; all of them while it is not done."""
        ways = [(weights, gumbel) for weights in WEIGHTS for gumbel in GUMBEL]
        if not worker.finished(self.store, self.folders[name]):
            return ways
        return [way for way in ways if not scores_path(self.folders[name], *way).exists()]

    def _open(self, name: str) -> None:
        folder = self.folders[name]
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        if not worker.finished(self.store, folder):
            worker.set_aside_unreadable(folder / "scores.parquet", records.read_frame)
            self.environments[name] = worker.Environment(folder, self.machine)
            self.store.write_status(folder, "running", step=worker.training_cost(folder).get("train_steps", 0))
            stored = scores_path(folder, *STORED)
            if stored.exists() and (folder / WEIGHTS["last"]).exists():
                self._finish(name, records.read_frame(stored))
        self.submit(name)

    # On the way

    def marks(self, cell: Cell) -> tuple[int, ...]:
        return (half(cell.budget),)

    def stepped(self, run: Run) -> None:
        if run.step in sampled(run.budget):
            sums = run.extra.setdefault("sums", {})
            for name, tensor in run.model.state_dict().items():
                if tensor.is_floating_point():
                    sums[name] = tensor.clone() if name not in sums else sums[name].to(tensor.device) + tensor
            run.extra["samples"] = run.extra.get("samples", 0) + 1

    def marked(self, run: Run) -> None:
        folder = self.folders[run.cell.name]
        if run.step == run.budget.iterations:
            mean = {name: (total / run.extra["samples"]).cpu() for name, total in run.extra["sums"].items()}
            rest = {
                name: t.detach().cpu().contiguous() for name, t in run.model.state_dict().items() if name not in mean
            }
            records.write_bytes(folder / WEIGHTS["average"], safetensors.torch.save(mean | rest))
            run.finish()
        else:
            keep_weights(run, folder / WEIGHTS["half"])
            run.save()
        self.submit(run.cell.name)

    def watched(self) -> None:
        self.collect(self.scorers.results())
        if self.lanes:
            print(self.line(), flush=True)

    def failed(self, run: Run, error: TrainingError) -> None:
        self.store.write_status(self.folders[run.cell.name], "failed", reason=str(error), **error.record)
        self.lost.append(run.cell.name)
        print(f"{run.cell.name}: {error}", flush=True)

    # Scores

    def submit(self, name: str) -> None:
        """Asks for every score of the cell that is missing and whose weights are there, what makes it done first.

        A network that draws no noise is scored once, and that counts for every seed.
        """
        folder = self.folders[name]
        for weights, gumbel in self.missing(name):
            if not scores_path(folder, weights, gumbel).exists() and (folder / WEIGHTS[weights]).exists():
                drawn = gumbel if self.noisy[name] else STORED[1]
                way = name, weights, drawn
                if way not in self.wrong:
                    arguments = self.cells[name], folder / WEIGHTS[weights], drawn, self.data, str(self.device)
                    self.scorers.submit(way, score, *arguments)

    def collect(self, results: Iterator) -> None:
        for way, future in results:
            name, weights, gumbel = way
            if (error := future.exception()) is not None:
                self.wrong[way] = f"{type(error).__name__}: {error}"
                print(f"{name}, {weights}, noise {gumbel}: {self.wrong[way]}", flush=True)
                continue
            frame = future.result()
            for seed in (gumbel,) if self.noisy[name] else GUMBEL:
                records.write_frame(scores_path(self.folders[name], weights, seed), frame)
            if (weights, gumbel) == STORED and name in self.environments:
                self._finish(name, frame)
            means = frame.groupby("dataset", sort=False)["psnr"].mean()
            told = "  ".join(f"{dataset} {value:.3f} dB" for dataset, value in means.items())
            print(f"{name}, {weights}, noise {gumbel}: {told}", flush=True)

    def _finish(self, name: str, frame: pd.DataFrame) -> None:
        """Files the scores of the last weights, and with them the cell."""
        cell, folder, record = self.cells[name], self.folders[name], self.environments.pop(name)
        self.store.write_scores(folder, frame)
        spent = round(float(frame["seconds"].sum()), 3)
        record.add(**worker.training_cost(folder), evaluate_seconds=spent, finished=records.now())
        self.notes.file(folder)
        expected = {dataset.name: len(dataset) for dataset in (find(each, self.data) for each in cell.test_sets)}
        weights = models.weights_hash(folder / WEIGHTS["last"])
        self.store.write_status(folder, "done", step=cell.budget.iterations, weights=weights, expected=expected)


def export(store: Store, name: str, command: str) -> list[str]:
    """`results.export`, and `<name>.csv.xz` with COLUMNS: `seconds` is a share of the time, what restoring took over
    the number of processes that did so side by side. Returns what was written, in words. Raises StoreError."""
    lines, tables = commit.export(store, name, command), []
    for folder in store.cell_folders():
        if store.status(folder)["state"] != "done":
            continue
        scorers = records.read_json(folder / "environment.json").get("scorers", 1)
        for weights in WEIGHTS:
            for gumbel in GUMBEL:
                if (path := scores_path(folder, weights, gumbel)).exists():
                    frame = records.read_frame(path).assign(hash=folder.name, weights=weights, gumbel=gumbel)
                    tables.append(frame.assign(seconds=frame["seconds"] / scorers))
    if not tables:
        raise StoreError(f"{store.root} holds no finished cell of the pilot")
    frame = pd.concat(tables, ignore_index=True)[list(COLUMNS)]
    text = frame.to_csv(index=False, lineterminator="\n", float_format="%.6f")
    path = commit.place(f"{name}.csv.xz")
    records.write_bytes(path, lzma.compress(text.encode(), preset=9))
    return [*lines, f"{path}: {len(frame)} scores of images"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m suites.execution.pilot", description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    add_data(parser)
    parser.add_argument("--budget", default="reduced")
    parser.add_argument("--seeds", help="0,1,2")
    parser.add_argument("--abreast", type=int, default=4, help="cells trained at a time")
    parser.add_argument("--scorers", type=int, default=6, help="processes that score")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long; go on another time")
    parser.add_argument("--device")
    parser.add_argument("--export", help="MACHINE/NAME under results/measured: commit what is finished, run nothing")
    options = parser.parse_args()
    store, command = Store(options.store), environment.command()
    if options.export:
        print(*export(store, options.export, command), sep="\n")
        return 0
    suite, device = (
        recipes.choose("pilot", budget=options.budget, seeds=options.seeds),
        environment.choose_device(options.device),
    )
    check_data(suite.cells, options.data)
    check_cells(suite.cells, "auto", device)
    for family in suite.compared():
        store.add_family(suite.name, family.name, family.base.config(), [(l, c.config()) for l, c in family.members])
    with determinism(True):
        pilot = Pilot(suite, store, options.data, device, options.abreast, options.scorers, command)
        done = pilot.follow(options.seconds)
    rest = [name for name in pilot.cells if pilot.missing(name) and name not in pilot.lost]
    state = "all is done" if done else "to be continued" if rest else f"{counted(len(pilot.lost), 'cell')} failed"
    print(f"{state}: {pilot.steps} steps in {pilot.seconds:.0f} s")
    return int(bool(pilot.wrong or pilot.lost))


if __name__ == "__main__":
    sys.exit(guard(main))
