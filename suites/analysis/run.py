"""Asks a network its questions image by image, in one process or several, and files the answers as they come.

What is stored under the same key for the same pixels and seed is not measured again, so that the same command goes on
where another ended. One process files: with several, the others only measure.
"""

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import models
from models.ops.scan import resolve
from results import records
from results.analyses import folder
from results.store import Store
from suites import environment
from suites.analysis.spec import Analysis, Context, Measured, Pair, Subject
from suites.data import Dataset, find, find_all
from suites.evaluation.scoring import nonstandard
from suites.network_file import NetworkFile
from suites.spec import Protocol, SpecError

FILED_S = 15.0  # between two writes of what was measured
TOGETHER = 8  # analyses of one image that a process is given at a time

Make = Callable[[nn.Module], Sequence[Analysis]]
Progress = Callable[[str, int, int, str], None]


class AnalysisError(RuntimeError):
    """Measuring ended early. What was measured is filed."""


@dataclass(frozen=True)
class Item:
    """Analyses (number, seeds) of one image, that are measured together."""

    dataset: str
    stem: str
    wanted: tuple[tuple[int, tuple[int | None, ...]], ...]


@dataclass
class Answers:
    """records: of every analysis on every set, in this order, as far as they are stored. notes: for whoever reads
    them. new, stored: units (an image, a seed, an analysis) measured now and before. stopped: what ended it early."""

    records: list[folder.Record] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    new: int = 0
    stored: int = 0
    stopped: BaseException | None = None


def run(
    make: Make,
    subject: Subject,
    sets: Sequence[str],
    protocol: Protocol,
    *,
    store: Store,
    seeds: Sequence[int] = (0,),
    images: str | None = None,
    data: Path | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Answers:
    """Asks every analysis of `make(network)` on every image of `sets`, for every seed where it draws.

    make: with more jobs than one also called by other processes, so it is a function of a module or a partial of one.
    images: glob of stems. jobs: processes that measure at a time; they share the device. progress: called with
    (dataset, done, total, stem), in units of an image, a seed and an analysis.
    Ctrl-C and a failure stop it, with what was measured filed (`Answers.stopped`). Raises SpecError, DataError,
    ModelError or StoreError before anything is measured.
    """
    names = list(dict.fromkeys(each.strip() for each in sets if each.strip()))
    if not names:
        raise SpecError("no dataset was named: --sets Set5,Set14")
    if jobs < 1:
        raise SpecError(f"--jobs {jobs}: at least one process is needed")
    datasets = find_all(names, data)
    network, protocol = subject.load(protocol)
    analyses = list(make(network))
    key = subject.key() | {"weights": models.weights_hash(network), "protocol": protocol.to_dict()}
    own = isinstance(subject.network, NetworkFile)
    used = "none" if own else resolve(subject.backend, torch.device(subject.device))
    machine = environment.describe(subject.device, used)
    machine |= {"command": environment.command(), "started": records.now(), "processes": jobs}
    if subject.weights is not None:
        machine |= {"file": subject.weights.name}
    answers = Answers(environment=machine)
    filer = Filer(store.root, key, machine, analyses, {dataset.name: len(dataset) for dataset in datasets})
    items: list[Item] = []
    for dataset in datasets:
        asked = _pixels(dataset, images)
        answers.notes += nonstandard(dataset, asked)
        more, before = _missing(filer, dataset, asked, tuple(seeds))
        items, answers.stored = items + more, answers.stored + before
    total = Counter[str]()
    for item in items:
        total[item.dataset] += sum(len(own_seeds) for _, own_seeds in item.wanted)
    jobs, done = min(jobs, max(1, len(items))), Counter[str]()
    here = _Here(subject, protocol, data, network, analyses)
    try:
        with here if jobs == 1 else _Elsewhere(subject, protocol, data, make, jobs) as measuring:
            for item, number, own_seeds, pair, found in measuring.answers(items):
                filer.take(item.dataset, number, own_seeds, pair, found)
                done[item.dataset] += len(own_seeds)
                if progress is not None:
                    progress(item.dataset, done[item.dataset], total[item.dataset], item.stem)
    except BrokenProcessPool:
        answers.stopped = AnalysisError(f"one of {jobs} processes was killed, for lack of memory perhaps: fewer --jobs")
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        answers.stopped = error
    filer.file()
    answers.new = done.total()
    places = [filer.place(number, dataset.name) for dataset in datasets for number in range(len(analyses))]
    answers.records = [folder.read(path) for path in places if (path / "config.json").exists()]
    return answers


class Filer:
    """Keeps what was measured and writes it now and then, since every write rewrites a table."""

    def __init__(
        self, root: Path, key: dict[str, Any], machine: dict[str, Any], analyses: list[Analysis], sizes: dict[str, int]
    ) -> None:
        self.root, self.common, self.machine, self.analyses, self.sizes = root, key, machine, analyses, sizes
        self.rows: dict[tuple[str, int], list[pd.DataFrame]] = {}
        self.arrays: dict[tuple[str, int], dict[str, dict[str, np.ndarray]]] = {}
        self.due = time.monotonic() + FILED_S

    def key(self, number: int, dataset: str) -> dict[str, Any]:
        analysis = self.analyses[number]
        return folder.key(analysis.name, analysis.parameters, dataset=dataset, **self.common)

    def place(self, number: int, dataset: str) -> Path:
        return folder.place(self.root, self.key(number, dataset))

    def take(
        self, dataset: str, number: int, seeds: tuple[int | None, ...], pair: tuple[str, str], found: Measured
    ) -> None:
        """pair: stem and pixels of the image. Raises ValueError for rows that are not those that were promised."""
        analysis, rows = self.analyses[number], found.rows
        if not analysis.draws:
            rows = rows.assign(seed=None)
        if missing := {"seed", *analysis.columns} - set(rows.columns):
            raise ValueError(f"{analysis.name} gave no column {', '.join(sorted(missing))}")
        if analysis.draws and set(rows["seed"]) != set(seeds):
            raise ValueError(f"{analysis.name} gave seeds {sorted(set(rows['seed']))} in place of {list(seeds)}")
        stem, pixels = pair
        self.rows.setdefault((dataset, number), []).append(rows.assign(image=stem, pixels=pixels))
        if found.arrays:
            self.arrays.setdefault((dataset, number), {})[stem] = dict(found.arrays)
        if self.arrays or time.monotonic() > self.due:
            self.file()

    def file(self) -> None:
        """Writes what was taken since the last time."""
        for (dataset, number), rows in self.rows.items():
            analysis, arrays = self.analyses[number], self.arrays.get((dataset, number))
            about = {"question": analysis.question, "columns": analysis.columns, "expected": self.sizes[dataset]}
            key, frame = self.key(number, dataset), pd.concat(rows, ignore_index=True)
            folder.add(self.root, key, frame, self.machine, arrays=arrays, **about)
        self.rows, self.arrays, self.due = {}, {}, time.monotonic() + FILED_S


def _pixels(dataset: Dataset, images: str | None) -> pd.DataFrame:
    """image and pixels of what is asked for, in the order of the set."""
    return pd.DataFrame([(one.stem, one.sha256) for one in dataset.images(images)], columns=["image", "pixels"])


def _missing(filer: Filer, dataset: Dataset, asked: pd.DataFrame, seeds: tuple[int, ...]) -> tuple[list[Item], int]:
    """What is not stored yet of `asked` (`_pixels`), image by image, and how many units are. Raises StoreError where
    another picture of the same name is stored."""
    held = []
    for number in range(len(filer.analyses)):
        place = filer.place(number, dataset.name)
        units = folder.measured_units(place)
        folder.check_pixels(units, asked, place)
        held.append({(row.image, None if pd.isna(row.seed) else int(row.seed)) for row in units.itertuples()})
    items, before = [], 0
    for stem in asked["image"]:
        wanted = []
        for number, analysis in enumerate(filer.analyses):
            own = seeds if analysis.draws else (None,)
            new = tuple(seed for seed in own if (stem, seed) not in held[number])
            before += len(own) - len(new)
            if new:
                wanted.append((number, new))
        parts = (tuple(wanted[i : i + TOGETHER]) for i in range(0, len(wanted), TOGETHER))
        items += [Item(dataset.name, stem, part) for part in parts]
    return items, before


# Who measures

Answer = tuple[Item, int, tuple[int | None, ...], tuple[str, str], Measured]


class _Here:
    """This process."""

    def __init__(
        self, subject: Subject, protocol: Protocol, data: Path | None, network: nn.Module, analyses: Sequence[Analysis]
    ) -> None:
        self.subject, self.protocol, self.data = subject, protocol, data
        self.network, self.analyses = network, analyses
        self.last: Pair | None = None

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def answers(self, items: Sequence[Item]) -> Iterator[Answer]:
        for item in items:
            yield from self.measure(item)

    def measure(self, item: Item) -> Iterator[Answer]:
        """The answers of an item, one after another."""
        task, device = self.subject.task, torch.device(self.subject.device)
        if self.last is None or (self.last.dataset, self.last.stem) != (item.dataset, item.stem):
            self.last = Pair.load(find(item.dataset, self.data), item.stem, task, self.protocol)
        for number, seeds in item.wanted:
            context = Context(task, self.protocol, device, seeds)
            found = self.analyses[number].measure(self.network, self.last, context)
            yield item, number, seeds, (self.last.stem, self.last.sha256), found


class _Elsewhere:
    """Other processes, each with a network of its own, given an item at a time."""

    def __init__(self, subject: Subject, protocol: Protocol, data: Path | None, make: Make, jobs: int) -> None:
        threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        started = _start, (subject, protocol, data, make, threads)
        self.pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), *started)

    def __enter__(self) -> "_Elsewhere":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self.pool.shutdown(wait=kind is None, cancel_futures=True)
        for process in multiprocessing.active_children() if kind else ():
            process.terminate()  # what they are at is not waited for

    def answers(self, items: Sequence[Item]) -> Iterator[Answer]:
        futures = [self.pool.submit(_measure, item) for item in items]
        for future in as_completed(futures):
            yield from future.result()


_own: _Here | None = None  # of a process that measures for another


def _start(subject: Subject, protocol: Protocol, data: Path | None, make: Make, threads: int) -> None:
    global _own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that files
    torch.set_num_threads(threads)
    network, protocol = subject.load(protocol)
    _own = _Here(subject, protocol, data, network, list(make(network)))


def _measure(item: Item) -> list[Answer]:
    return list(_own.measure(item))
