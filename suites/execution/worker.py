"""What the process of one cell does: train, evaluate, file. Started by the engine as `python -m
suites.execution.engine`.

It holds the cell's lock while it works, keeps status.json true at every moment, and reports on its standard output in
JSON lines; everything else that prints goes to stderr. Whatever kills it, the folder stays consistent: files appear
whole, and `done` is written last.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results import locks, records
from results.store import Store, StoreError
from suites.spec import Cell, SpecError

if TYPE_CHECKING:
    from torch import nn

# Exit status. REFUSED: it would say the same again. UNWRITABLE: so would every other cell of this store.
DONE, CRASHED, REFUSED, BUSY, UNWRITABLE = range(5)
ALIVE_S = 5  # how often a silent cell shows that it lives, and learns that its engine is gone
STATUS_S = 30  # how often status.json gets the step
REFUSALS = (
    ("models", "ModelError"),
    ("models.ops.scan", "BackendError"),
    ("suites.data", "DataError"),
    ("suites.evaluation.evaluate", "EvaluationError"),
    ("suites.evaluation.metrics", "MetricError"),
    ("suites.training.step", "TrainingError"),
)


@dataclass(frozen=True)
class Options:
    """How this machine runs a cell: none of it is part of the cell's identity, all of it is recorded."""

    device: str
    data: Path | None
    backend: str
    deterministic: bool
    threads: int | None
    command: str


class Reporter:
    """Writes events to the engine; ends the process when nobody reads them any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock = descriptor, threading.Lock()

    def __call__(self, event: str, **details: Any) -> None:
        line = (json.dumps({"event": event, **details}) + "\n").encode()
        with self._lock:
            try:
                os.write(self._descriptor, line)
            except BrokenPipeError:
                os._exit(CRASHED)  # the engine was killed: nothing is lost, and the next one finds a dead lock

    def keep_alive(self) -> None:
        def beat() -> None:
            while True:
                time.sleep(ALIVE_S)
                self("alive")

        threading.Thread(target=beat, name="alive", daemon=True).start()


class Notes(list[str]):
    """The warnings of this process, once each: for the engine as they come, for environment.json at the end."""

    def __init__(self, report: "Report") -> None:
        super().__init__()
        self._report, self._show = report, warnings.showwarning
        warnings.showwarning = self._see

    def _see(self, message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        self._show(message, category, *where, **more)
        text = " ".join(str(message).split())
        if text not in self and not issubclass(category, (DeprecationWarning, FutureWarning)):
            self.append(text)
            self._report("note", text=text)

    def file(self, folder: Path) -> None:
        """Adds them to the cell's environment.json, where there is one."""
        path = folder / "environment.json"
        if self and path.exists():
            records.write_json(path, records.read_json(path) | {"notes": list(self)})


Report = Callable[..., None]  # report(event, **details)
Work = Callable[[Cell, Path, Store, Options, Report], dict[str, Any]]


def main(arguments: list[str] | None = None, work: Work | None = None) -> int:
    """Runs the cell of a config.json. `work` does what is measured (default: train, then evaluate) and returns what
    status.json says beside the state: the hash of the weights, and the images expected in each dataset."""
    parser = argparse.ArgumentParser(prog="python -m suites.execution.engine", description="Runs one cell.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--command", default="")
    given = parser.parse_args(arguments)
    options = Options(given.device, given.data, given.backend, given.deterministic, given.threads, given.command)

    report = Reporter(os.dup(1))
    os.dup2(2, 1)  # a library that prints must not break the engine's lines
    notes = Notes(report)
    report.keep_alive()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        cell = Cell.from_config(records.read_json(given.config))
        store = Store(given.results)
        folder = store.open_cell(cell.config())
        with locks.hold(folder):
            return _run(cell, folder, store, options, report, notes, work or train_and_evaluate)
    except locks.LockedError as error:
        report("busy", reason=str(error))
        return BUSY
    except (SpecError, StoreError) as error:
        report("failed", reason=str(error))
        return UNWRITABLE if isinstance(error, records.WriteError) else REFUSED


def _run(cell: Cell, folder: Path, store: Store, options: Options, report: Report, notes: Notes, work: Work) -> int:
    """With the lock held: from any state of the folder to done or failed."""
    if finished(store, folder) and not missing(store, folder):  # by another engine, since ours looked
        report("done")
        return DONE
    step, told = 0, time.monotonic()

    def tell(event: str, **details: Any) -> None:
        nonlocal step, told
        step = details.get("step", step)
        if time.monotonic() - told > STATUS_S:
            store.write_status(folder, "running", step=step)
            told = time.monotonic()
        report(event, **details)

    try:
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        store.write_status(folder, "running")
        outcome = work(cell, folder, store, options, tell)
        notes.file(folder)
        store.write_status(folder, "done", step=cell.budget.iterations, **outcome)
    except Exception as error:
        refused = refuses(error)
        reason = str(error) if refused else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())
        traceback.print_exc()
        report("failed", reason=reason)
        with suppress(StoreError):
            notes.file(folder)
        where = {"step": step} | getattr(error, "record", {})  # of a TrainingError: the step, and its loss
        store.write_status(folder, "failed", reason=reason, **where)
        if isinstance(error, records.WriteError):
            return UNWRITABLE
        return REFUSED if refused else CRASHED
    report("done")
    return DONE


def finished(store: Store, folder: Path) -> bool:
    """Whether the cell is done, with all that belongs to it readable."""
    try:
        done = store.status(folder)["state"] == "done"
        return done and len(records.read_frame(folder / "scores.parquet")) > 0
    except StoreError:
        return False


def missing(store: Store, folder: Path) -> dict[str, tuple[int, int]]:
    """Datasets of a finished cell of which it has not scored every image: (images scored, images expected)."""
    expected = store.status(folder).get("expected") or {}
    counts = records.read_frame(folder / "scores.parquet")["dataset"].value_counts()
    have = {name: int(counts.get(name, 0)) for name in expected}
    return {name: (have[name], count) for name, count in expected.items() if have[name] < count}


def refuses(error: Exception) -> bool:
    """Whether it names the user's mistake or a final finding (a loss that diverged): again, it would say the same."""
    if isinstance(error, (SpecError, StoreError)):
        return True
    loaded = [(sys.modules.get(module), name) for module, name in REFUSALS]  # what raised one of these is loaded
    return any(isinstance(error, getattr(module, name)) for module, name in loaded if module is not None)


def train_and_evaluate(cell: Cell, folder: Path, store: Store, options: Options, report: Report) -> dict[str, Any]:
    """Trains `cell` where it stands, scores it on its test sets, and files both."""
    import torch

    import models
    from models.ops.scan import resolve
    from suites import environment
    from suites.data import find, load_training
    from suites.evaluation.filing import cell_target, score_set
    from suites.training.step import determinism
    from suites.training.trainer import train

    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    machine = environment.describe(device, resolve(options.backend, device))
    machine |= {"deterministic": options.deterministic, "command": options.command, "started": records.now()}
    record = Environment(folder, machine)

    def trained(runs: list) -> None:
        for run in runs:
            known = {} if run.loss is None else {"loss": run.loss}
            report("train", step=run.step, iterations=run.budget.iterations, **known)

    # What cannot end well is said before the long part.
    sets = [find(name, options.data) for name in cell.test_sets]
    model = scored_network(cell, options.backend)
    images = load_training(cell.train_sets, options.data)
    weights = train(
        cell,
        images,
        folder,
        device=device,
        backend=options.backend,
        deterministic=options.deterministic,
        on_sync=trained,
    )
    record.add(**training_cost(folder))
    del images

    models.load_weights(model, weights)
    model.to(device).eval()
    begun = time.perf_counter()
    set_aside_unreadable(folder / "scores.parquet", records.read_frame)
    with determinism(True) if options.deterministic else nullcontext():
        for dataset in sets:
            score_set(
                model,
                cell.task,
                dataset,
                cell.protocol,
                cell_target(store, folder),
                device=options.device,
                labels=cell.variant.labels,
                progress=lambda done, total, stem, name=dataset.name: report(
                    "evaluate", dataset=name, done=done, total=total
                ),
            ).checked()
    record.add(evaluate_seconds=round(time.perf_counter() - begun, 3), finished=records.now())
    return {"weights": models.weights_hash(weights), "expected": {dataset.name: len(dataset) for dataset in sets}}


def scored_network(cell: Cell, backend: str) -> "nn.Module":
    """The cell's network as its protocol scores it: it may have trained with another routing, never another order.

    Raises SpecError for that, and for an argument that the network does not know.
    """
    import models

    overrides = {**cell.task.network, **cell.variant.overrides}
    if cell.protocol.routing is not None:
        overrides["routing"] = cell.protocol.routing
    try:
        model = models.build(cell.variant.model, **overrides, backend=backend)
    except TypeError as error:
        raise SpecError(f"{cell.name}: {error}") from error
    expected = cell.protocol.prompt_order
    if "prompt_order" in models.capabilities_of(model).settings and model.prompt_order != expected:
        raise SpecError(f"{cell.name}: the network has prompt_order {model.prompt_order!r}, its protocol {expected!r}")
    return model


class Environment:
    """environment.json of a cell: this process, and under `earlier` those that worked on it before it."""

    def __init__(self, folder: Path, machine: Mapping[str, Any]) -> None:
        self._path, self._content = folder / "environment.json", dict(machine)
        set_aside_unreadable(self._path, records.read_json)
        if self._path.exists():
            before = records.read_json(self._path)
            self._content["earlier"] = [*before.pop("earlier", []), before]
        self.add()

    def add(self, **measured: Any) -> None:
        self._content |= measured
        records.write_json(self._path, self._content)


def training_cost(folder: Path) -> dict[str, Any]:
    """Steps and seconds of training, over all processes that worked on the cell, from the last line of its log."""
    try:
        last = json.loads((folder / "train.jsonl").read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return {"train_steps": last["step"], "train_seconds": last["seconds"], "peak_mib": last.get("peak_mib")}


def scored(folder: Path, dataset: str) -> set[str]:
    """The images (stems) of `dataset` that the cell's table holds."""
    path = folder / "scores.parquet"
    if not path.exists():
        return set()
    rows = records.read_frame(path)
    return set(rows.loc[rows["dataset"] == dataset, "image"])


def set_aside_unreadable(path: Path, read: Callable[[Path], Any]) -> None:
    """A damaged file makes room for a new one and is kept beside it."""
    try:
        read(path)
    except StoreError:
        if path.exists():
            with records.guarded(path):
                path.replace(path.with_name(f"{path.name}.corrupt"))
