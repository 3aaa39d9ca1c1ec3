"""From a model's name and a file of weights to filed scores: what `evaluate` does, for use from Python as well."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from torch import nn

import models
from models.scan import resolve
from results.store import Store, StoreError
from suites import environment
from suites.data import Dataset, find
from suites.evaluation import BASELINES, evaluate
from suites.spec import Protocol, SpecError, Task


@dataclass(frozen=True)
class Scoring:
    """Scores of one model: a mean per dataset, a row per image, and what they were measured on.

    `refused` says which datasets the store did not take, for example because it holds other scores of their images;
    `notes` what a reader must know, such as pictures that are not those of the standard set.
    """

    rows: list[dict[str, Any]]
    images: pd.DataFrame
    environment: dict[str, Any]
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What `evaluate` prints: scores with their protocol, and what they were measured on."""
        lines = []
        for row in self.rows:
            count = "all" if row["images"] == row["expected"] else f"{row['images']} of"
            psnr, ssim = ("-" if row[n] is None else f"{row[n]:.{d}f}" for n, d in (("psnr", 3), ("ssim", 4)))
            single = "" if row["psnr_single"] is None else f" (single samples {row['psnr_single']:.3f})"
            lines.append(f"{row['dataset']:10} {psnr} dB{single}  {ssim}  {count} {row['expected']} images")
        protocol = self.rows[0]["protocol"] if self.rows else {}
        backend = "" if self.environment["backend"] == "none" else f", backend {self.environment['backend']}"
        return [
            *lines,
            *(f"note: {note}" for note in self.notes),
            "protocol: " + ", ".join(f"{key} {value}" for key, value in protocol.items() if value is not None),
            f"measured on {self.environment['device']}{backend}, {self.environment['threads']} threads, PyTorch "
            f"{self.environment['versions']['torch']}, commit {self.environment['commit']}",
        ]

    def to_json(self) -> dict[str, Any]:
        """The JSON of `evaluate`; a PSNR of identical images is null."""
        columns = ["dataset", "image", "psnr", "ssim", "psnr_single"]
        images = [
            {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
            for row in self.images[columns].to_dict("records")
        ]
        return {"rows": self.rows, "images": images, "environment": self.environment}


def read_network(path: Path) -> dict[str, Any]:
    """The `network_g` block of an official option file. Raises SpecError when there is none."""
    try:
        options = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}") from None
    block = options.get("network_g") if isinstance(options, dict) else None
    if not isinstance(block, dict):
        raise SpecError(f"{path} has no network_g block: give an official option file (.yml)")
    return block


def load_model(
    name: str,
    task: Task,
    weights: Path | None,
    protocol: Protocol,
    *,
    network: Path | None = None,
    backend: str = "auto",
    device: str = "cpu",
) -> tuple[nn.Module, Protocol]:
    """A network with weights, on `device`, set to the protocol; and the protocol, less what the network does not have.

    name: of the catalogue, built for `task`; with `network`, an official option file, that network is built instead.
    MambaIR has no routing and no prompts, so its protocol has none. Raises SpecError without weights, ModelError for
    weights or options that do not fit.
    """
    if weights is None:
        raise SpecError(f"{name} needs --weights: a score of random initial values would say nothing")
    if network is not None:
        try:
            model = models.from_official(read_network(network), backend=backend)
        except TypeError as error:
            raise SpecError(f"{network}: {error}") from None
    else:
        model = models.build(name, **task.network, backend=backend)
    models.load_weights(model, weights)
    if hasattr(model, "routing"):
        model.routing, model.prompt_order = protocol.routing, protocol.prompt_order
    else:
        protocol = replace(protocol, routing=None, prompt_order=None, samples=1)
    return model.to(device).eval(), protocol


def summarise(model: str, task: Task, dataset: str, rows: pd.DataFrame, expected: int, protocol: Protocol) -> dict:
    """One row of `evaluate`: means over the set, null unless every image of it was scored."""
    complete = len(rows) == expected
    columns = ("psnr", "ssim", "psnr_single") if protocol.samples > 1 else ("psnr", "ssim")
    mean = {name: float(rows[name].mean(skipna=False)) if complete else math.nan for name in columns}
    return {
        "model": model,
        "task": task.name,
        "dataset": dataset,
        "psnr_single": None,
        **{name: None if math.isnan(value) else value for name, value in mean.items()},
        "images": len(rows),
        "expected": expected,
        "protocol": protocol.to_dict(),
    }


def nonstandard(dataset: Dataset, rows: pd.DataFrame) -> list[str]:
    """Stems of scored pictures whose pixels are not those of the set's manifest."""
    entries = ((row.image, row.pixels, dataset.entries.get(row.image)) for row in rows.itertuples())
    return [stem for stem, pixels, entry in entries if entry is not None and entry.sha256 != pixels]


def score(
    name: str,
    task: Task,
    sets: Sequence[str],
    protocol: Protocol,
    *,
    weights: Path | None = None,
    network: Path | None = None,
    data: Path | None = None,
    images: str | None = None,
    save: Path | None = None,
    store: Store | None = None,
    backend: str = "auto",
    device: str = "cpu",
    progress: Callable[[str, int, int, str], None] | None = None,
) -> Scoring:
    """Scores `name` (a catalogue model, or a baseline) on every set, filing each set in `store` as soon as it is done.

    images: glob of stems; parts of a set are parts of one record. progress: (dataset, done, total, stem).
    Raises SpecError, DataError, ModelError, BackendError or EvaluationError before the first image where it can.
    """
    datasets = [find(each.strip(), data) for each in sets]
    key: dict[str, Any] = {"model": name, "weights": "none"}
    if name in BASELINES:
        model, used, protocol = name, "none", Protocol.baseline(task)
    else:
        model, protocol = load_model(name, task, weights, protocol, network=network, backend=backend, device=device)
        used = resolve(backend, torch.device(device))
        overrides = {"network_g": read_network(network)} if network else task.network
        key |= {"weights": models.weights_hash(model), "overrides": overrides}
    key |= {"task": task.name, "protocol": protocol.to_dict()}
    measured_on = environment.describe(device, used)
    rows, frames, refused, notes = [], [], [], []
    for dataset in datasets:
        report = None if progress is None else lambda *done, of=dataset.name: progress(of, *done)
        frame = evaluate(model, task, dataset, protocol, device=device, pattern=images, save=save, progress=report)
        expected, whole = len(dataset), frame
        if odd := nonstandard(dataset, frame):
            names = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
            notes.append(
                f"{len(odd)} pictures are not those of the standard {dataset.name} ({names}): see `data check`"
            )
        if store is not None:
            try:
                record = Store.evaluation_key(**key, dataset=dataset.name)
                whole = store.add_evaluation(record, frame, measured_on, expected=expected)
            except StoreError as error:
                refused.append(str(error))
        rows.append(summarise(name, task, dataset.name, whole, expected, protocol))
        frames.append(frame)
    return Scoring(rows, pd.concat(frames, ignore_index=True), measured_on, refused, notes)
