"""From a model's name and a file of weights to filed scores: what `evaluate` does, for use from Python as well."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from torch import Tensor, nn

import models
from models.checkpoints import describe, read_state, scale_of
from models.ops.scan import resolve
from results.agreement.limits import EXACT
from results.store import Store
from suites import environment, peers
from suites.data import Dataset, find_all
from suites.evaluation.crops import Kept, may_be_kept
from suites.evaluation.evaluate import frame_of
from suites.evaluation.filing import NOWHERE, Scored, record_target, score_set
from suites.network_file import NetworkFile, check_own_name
from suites.spec import BASELINES, PEER, Protocol, SpecError, Task


@dataclass(frozen=True)
class Scores:
    """Scores of one model: a mean per dataset, a row per image that was asked for, and what they were measured on.

    stored: by dataset, on what the images that were not scored again had been measured. `refused` says which datasets
    the store did not take, for example because it holds other scores of their images; `notes` what a reader must know,
    such as pictures that are not those of the standard set. `stopped` is what ended the scoring early; the images
    before it are here and in the store.
    """

    rows: list[dict[str, Any]]
    images: pd.DataFrame
    environment: dict[str, Any]
    stored: dict[str, list[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stopped: BaseException | None = None

    def lines(self) -> list[str]:
        """What `evaluate` prints: scores with their protocol, which are new, and what they were measured on."""
        lines = []
        for row in self.rows:
            count = "all" if row["images"] == row["expected"] else f"{row['images']} of"
            psnr, ssim = ("-" if row[n] is None else f"{row[n]:.{d}f}" for n, d in (("psnr", 3), ("ssim", 4)))
            single = "" if row["psnr_single"] is None else f" (single samples {row['psnr_single']:.3f})"
            origin = "" if not row["stored"] else f": {row['new']} scored now, {row['stored']} stored before"
            lines.append(f"{row['dataset']:10} {psnr} dB{single}  {ssim}  {count} {row['expected']} images{origin}")
            asked = self.images[self.images["dataset"] == row["dataset"]]
            if len(asked) < row["expected"]:
                lines += [f"  {image.image:20} {image.psnr:.3f} dB  {image.ssim:.4f}" for image in asked.itertuples()]
        lines += [f"note: {note}" for note in self.notes]
        protocol = self.rows[0]["protocol"] if self.rows else {}
        lines.append("protocol: " + ", ".join(f"{key} {value}" for key, value in protocol.items() if value is not None))
        if any(row["new"] for row in self.rows):
            lines.append(f"measured on {machine_line(self.environment)}")
        lines += [f"{name}: stored before, {told}" for name, machines in self.stored.items() for told in machines]
        return lines

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
    # ValueError, IndexError: of a date and a number that are none.
    except (OSError, ValueError, IndexError, RecursionError, yaml.YAMLError) as error:
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
    network: Path | NetworkFile | None = None,
    overrides: Mapping[str, Any] | None = None,
    backend: str = "auto",
    device: str = "cpu",
) -> tuple[nn.Module, Protocol]:
    """A network with weights, on `device`, set to the protocol; and the protocol, less what the network does not have.

    name: of the catalogue, built for `task` with `overrides`, or PEER, for what the weights tell; with `network`, an
    official option file or a class in a user's file, that network is built instead. Where nothing routes or prompts
    (MambaIR), the protocol has neither. Raises SpecError without weights and for a protocol that routes or prompts
    otherwise than officially where nothing does, ModelError for weights or options that do not fit.
    """
    if weights is None:
        raise SpecError(f"{name} needs --weights: a score of random initial values would say nothing")
    if isinstance(network, NetworkFile):
        model = network.build()
    elif name == PEER and network is None:
        model = peers.load(weights, task)
    elif network is not None:
        try:
            model = models.from_official(read_network(network), backend=backend)
        except TypeError as error:
            raise SpecError(f"{network}: {error}") from None
    else:
        model = models.build(name, **{**task.network, **(overrides or {})}, backend=backend)
    settings = models.capabilities_of(model).settings
    if not settings:
        official = Protocol.official(task)
        typed = [
            key for key in ("routing", "prompt_order", "samples", "seed") if vars(protocol)[key] != vars(official)[key]
        ]
        if typed:
            options = ", ".join(f"--{key.replace('_', '-')}" for key in typed)
            raise SpecError(f"{name} has no router and no prompts: leave out {options}")
        protocol = replace(protocol, routing=None, prompt_order=None, samples=1)
    if not isinstance(model, peers.Peer):
        state = read_state(weights)
        if network is None:
            _check_task(state, task, weights)
        models.load_weights(model, state, str(weights))
    for key in settings:
        setattr(model, key, getattr(protocol, key))
    return model.to(device).eval(), protocol


def _check_task(state: Mapping[str, Tensor], task: Task, file: Path) -> None:
    """Raises ModelError for weights of another scale or other channels than a task's, with the tasks that they fit."""
    found = scale_of(state)
    if found in (None, (task.scale, task.channels)):
        return
    known = map(Task.parse, Task.names())
    fitting = [f"--task {one.name}" for one in known if (one.scale, one.channels) == found]
    advice = f"give {' or '.join(fitting)}" if fitting else "no task here fits them"
    scale = f"x{task.scale}" if task.scale > 1 else f"the same size, {task.channels} channels"
    raise models.ModelError(f"{file} looks like {describe(state)}, and {task.name} needs {scale}: {advice}")


def machine_line(machine: Mapping[str, Any]) -> str:
    """An environment in one line."""
    backend = "" if machine.get("backend") in (None, "none") else f", backend {machine['backend']}"
    version = (machine.get("versions") or {}).get("torch")
    return (
        f"{machine.get('device')}{backend}, {machine.get('threads')} threads, PyTorch {version}, "
        f"commit {machine.get('commit')}"
    )


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
    """A note when pixels of scored pictures are not those of the set's manifest, else nothing."""
    entries = ((row.image, row.pixels, dataset.entries.get(row.image)) for row in rows.itertuples())
    odd = [stem for stem, pixels, entry in entries if entry is not None and entry.sha256 != pixels]
    names = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
    return (
        [f"{len(odd)} pictures are not those of the standard {dataset.name} ({names}): see `data check`"] if odd else []
    )


def rescored(name: str, found: Scored) -> list[str]:
    """A note when pictures that were scored again have other scores than are stored, else nothing."""
    both = found.asked[found.asked["image"].isin(found.new)].merge(found.rows, on="image", suffixes=("", "_stored"))
    away = (both["psnr"] - both["psnr_stored"]).abs()
    count = int((away > EXACT).sum())
    if not count:
        return []
    return [
        f"{name}: {count} of {len(both)} pictures that were scored again are up to {away.max():.2g} dB away from what "
        "another machine or commit has stored: both are kept, and the mean is that of the first"
    ]


def score(
    name: str,
    task: Task,
    sets: Sequence[str],
    protocol: Protocol,
    *,
    weights: Path | None = None,
    network: Path | NetworkFile | None = None,
    data: Path | None = None,
    images: str | None = None,
    save: Path | None = None,
    store: Store | None = None,
    again: bool = False,
    as_official: bool = False,
    backend: str = "auto",
    device: str = "cpu",
    progress: Callable[[str, int, int, str], None] | None = None,
) -> Scores:
    """Scores `name` (a catalogue model, or a baseline) on every set, filing each set in `store` as soon as it ends.

    Images that `store` holds under the same key with the same pixels are not scored again, unless `again` says so.
    What ends it early (a damaged picture, Ctrl-C) is in `Scores.stopped`, with all images scored before it filed.

    save: a folder for the restored pictures; the store then keeps a crop of those that a report may show (`crops`).
    images: glob of stems; parts of a set are parts of one record. progress: (dataset, done, total, stem).
    as_official: the weights are published ones in a file that is not known here; the record says so, and `tables`
    compares it with published scores.
    Raises SpecError, DataError, ModelError, BackendError or EvaluationError when nothing could be scored.
    """
    names = list(dict.fromkeys(each.strip() for each in sets if each.strip()))
    if not names:
        raise SpecError("no dataset was named: --sets Set5,Set14")
    key: dict[str, Any] = {"model": name, "weights": "none"}
    own = isinstance(network, NetworkFile)
    if own:
        check_own_name(name)
        if as_official:
            raise SpecError(f"{network.name} is a network of yours: leave out --as-official")
    if name in BASELINES:
        if weights or network or as_official:
            raise SpecError(f"{name} is no network: leave out --weights, --network and --as-official")
        model, used = name, "none"
    else:
        model, protocol = load_model(name, task, weights, protocol, network=network, backend=backend, device=device)
        peer = isinstance(model, peers.Peer)
        used = "none" if own or peer else resolve(backend, torch.device(device))
        overrides = {"network_g": read_network(network)} if network and not own else task.network
        overrides = network.key() if own else {"architecture": model.architecture} if peer else overrides
        key |= {"weights": models.weights_hash(weights if peer else model), "overrides": overrides}
    key |= {"task": task.name, "protocol": protocol.to_dict()}
    datasets = find_all(names, data)
    for dataset in datasets:
        dataset.stems(images)  # a glob that fits nothing is said before the first image
    measured_on = environment.describe(device, used) | {"command": environment.command()}
    result = Scores([], frame_of([]), measured_on)
    stopped, asked = None, []
    for dataset in datasets:
        record = Store.evaluation_key(**key, dataset=dataset.name)
        target = NOWHERE if store is None else record_target(store, record, measured_on, len(dataset))
        told = partial(progress, dataset.name) if progress else None
        kept = Kept(task) if save is not None and name not in BASELINES and may_be_kept(dataset.name) else None
        options = {"device": device, "pattern": images, "save": save, "again": again, "progress": told, "keep": kept}
        found = score_set(model, task, dataset, protocol, target, **options)
        stopped = found.stopped
        if store is not None and weights is not None and not found.refused:
            store.describe_weights(record, file=weights.name, as_official=as_official)
            if kept is not None:
                facts = {"model": name, "file": weights.name, "task": task.name, "dataset": dataset.name}
                facts |= {key: measured_on[key] for key in ("command", "commit", "device")}
                kept.file(store.evaluation_folder(record), {**facts, "protocol": protocol.to_dict()})
        if len(found.asked):
            asked.append(found.asked)
            result.notes.extend(nonstandard(dataset, found.asked))
            if found.refused:
                result.refused.append(str(found.refused))
            before = found.rows[~found.rows["image"].isin(found.new)]
            result.notes.extend(rescored(dataset.name, found))
            counts = {"new": len(found.new), "stored": len(before)}
            result.rows.append(summarise(name, task, dataset.name, found.rows, len(dataset), protocol) | counts)
            if len(before) and not found.refused:
                result.stored[dataset.name] = _machines(store, record, before)
        if stopped is not None:
            break
    if stopped is not None and not asked:
        raise stopped
    return replace(result, images=pd.concat(asked, ignore_index=True), stopped=stopped)


def _machines(store: Store, key: dict[str, Any], rows: pd.DataFrame) -> list[str]:
    """What these rows of a record were measured on, a line for each environment."""
    environments = store.read_evaluation(store.evaluation_folder(key))[1]["environments"]
    lines = []
    for label, part in rows.groupby("environment", dropna=False, sort=False):
        machine = environments.get(label, {})
        lines.append(f"{len(part)} images measured {machine.get('finished')} on {machine_line(machine)}")
    return lines
