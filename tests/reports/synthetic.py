"""Stores filled through their own API, with scores chosen so that every expected number can be written down."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.numpy

from results import records
from results.analyses import Record, folder
from results.store import Store
from suites.spec import Budget, Cell, Protocol, Task, Variant

SR = Task.parse("sr-x2")
MACHINE = {
    **{"device": "a machine", "device_type": "cpu", "backend": "chunked", "threads": 2, "system": "Linux"},
    **{"python": "3.11.7", "versions": {"torch": "2.13.0"}, "commit": "abc", "finished": "2026-01-01T00:00:00"},
}
WEIGHTS = "0123456789abcdef" * 4


def scores(dataset: str, images: int, psnr: float, ssim: float = 0.9) -> pd.DataFrame:
    """Rows whose mean is exactly (psnr, ssim), though the images differ."""
    spread = np.linspace(-1, 1, images) if images > 1 else np.zeros(1)
    names = [f"image{number:03}" for number in range(images)]
    return pd.DataFrame(
        {
            "dataset": dataset,
            "image": names,
            "pixels": [hashlib.sha256(name.encode()).hexdigest() for name in names],
            "psnr": psnr + spread,
            "ssim": ssim + spread / 100,
            "psnr_single": psnr + spread,
            "seconds": 0.5,
        }
    )


def evaluate(
    store: Store,
    psnr: float,
    ssim: float = 0.9,
    *,
    model: str = "mambairv2-light",
    task: str = "sr-x2",
    dataset: str = "Set5",
    images: int = 5,
    of: int = 5,
    weights: str = WEIGHTS,
    labels: str = "learned",
    change: np.ndarray | float = 0.0,
    file: str | None = None,
    as_official: bool = False,
    **protocol,
) -> None:
    """Files a record of `images` of `of` images, `change` added to each PSNR; `protocol` changes the official one."""
    parsed = Task.parse(task)
    key = Store.evaluation_key(
        model,
        weights=weights,
        task=task,
        dataset=dataset,
        protocol=Protocol.official(parsed, **protocol).to_dict(),
        overrides=parsed.network,
        labels=labels,
    )
    rows = scores(dataset, images, psnr, ssim)
    rows = rows.assign(psnr=rows["psnr"] + change)
    store.add_evaluation(key, rows, MACHINE, expected=of, file=file, as_official=as_official)


def cell(variant: str, seed: int, budget: Budget | None = None, model: str = "mambairv2-tiny", **overrides) -> Cell:
    return Cell(
        Variant(variant, model, overrides),
        SR,
        seed,
        budget or Budget("smoke", 300),
        ("embedded",),
        ("embedded",),
        Protocol.official(SR),
    )


def train(
    store: Store,
    which: Cell,
    psnr: float,
    ssim: float = 0.9,
    *,
    weights: str = "w",
    size: int = 1000,
    images: int = 4,
) -> Path:
    """Files a finished cell with `size` parameters (and an index buffer, which is none) and its scores."""
    folder = store.open_cell(which.config())
    for dataset in which.test_sets:
        store.write_scores(folder, scores(dataset, images, psnr, ssim))
    tensors = {"a": np.zeros((size // 10, 10), np.float32), "index": np.zeros(77, np.int64)}
    (folder / "weights.safetensors").write_bytes(safetensors.numpy.save(tensors))
    records.write_json(folder / "environment.json", {**MACHINE, "train_seconds": 2.0})
    store.write_status(
        folder,
        "done",
        step=which.budget.iterations,
        expected=dict.fromkeys(which.test_sets, images),
        weights=weights,
    )
    return folder


def on(which: Cell, *test_sets: str) -> Cell:
    return replace(which, test_sets=test_sets)


def analysis_key(name: str, weights: str = WEIGHTS, dataset: str = "Set5") -> dict:
    own = {"model": "m", "overrides": {}, "weights": weights, "task": "sr-x2", "dataset": dataset}
    return folder.key(name, {}, **own, protocol=Protocol.official(SR).to_dict())


def analysis(name: str, rows: pd.DataFrame, where: Path | None = None, **key: str) -> Record:
    """What an analysis found, of images `rows["image"]`; where: a folder that arrays lie in."""
    columns, environments = dict.fromkeys(rows.columns, ""), {"e": {"file": "own.pth"}}
    return Record(analysis_key(name, **key), rows["image"].nunique(), "?", columns, rows, environments, where)
