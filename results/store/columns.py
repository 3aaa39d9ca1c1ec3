"""The columns of the frames that a store gives, and rows for them."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from results.agreement import other_machines
from results.records import StoreError

# Of a cell's time; where `abreast` cells were trained at a time in one process, its seconds are its share.
SPENT = ("started", "finished", "train_steps", "train_seconds", "abreast", "evaluate_seconds")
CELL_COLUMNS = (
    *("hash", "name", "variant", "model", "overrides", "labels", "task", "seed", "budget", "iterations"),
    *("train_sets", "test_sets", "protocol", "config", "state", "reason", "step", "weights"),
    *SPENT,
    *("device", "device_type", "backend", "threads", "commit", "command", "problem"),
)
EVALUATION_COLUMNS = (
    *("hash", "model", "overrides", "labels", "weights", "file", "as_official", "task", "dataset", "protocol"),
    *("images", "expected", "complete", "coverage", "psnr", "ssim", "psnr_single"),
    *("finished", "device", "device_type", "backend", "threads", "commit", "command", "problem"),
)
MEAN_COLUMNS = (
    *("source", "hash", "dataset", "images", "expected", "complete", "coverage", "psnr", "ssim", "psnr_single"),
)
SCORE_COLUMNS = ("source", "hash", "dataset", "image", "pixels", "psnr", "ssim", "psnr_single", "seconds")
TOLD = ("file", "as_official")  # of a record's weights, by whoever scored them
MACHINE = ("device", "device_type", "backend", "threads", "commit", "command")
OTHER_MACHINES_COLUMNS = ("source", "hash", *other_machines.COLUMNS)


def flatten_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `Store.cells` that a configuration fills. Raises StoreError when it lacks a part."""
    try:
        variant, budget = config["variant"], config["budget"]
        return {
            "name": f"{variant['name']}/{config['task']}/seed-{config['seed']}",
            "variant": variant["name"],
            "model": variant["model"],
            "overrides": variant["overrides"],
            "labels": variant["labels"],
            "task": config["task"],
            "seed": config["seed"],
            "budget": budget["name"],
            "iterations": budget["iterations"],
            "train_sets": config["train_sets"],
            "test_sets": config["test_sets"],
            "protocol": config["protocol"],
            "config": dict(config),
        }
    except (KeyError, TypeError) as error:
        raise StoreError(f"a configuration lacks {error}: it was made by another version") from error


def told_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of its weights apart from their hash: {"file": name or None, "as_official": bool}."""
    file = record.get("file")
    return {"file": file if isinstance(file, str) else None, "as_official": record.get("as_official") is True}


def frame_of(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    """Object columns: what is unknown stays None, a count stays an integer, a list stays a list."""
    return pd.DataFrame([[row.get(name) for name in columns] for row in rows], columns=list(columns), dtype=object)


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The inverse of `frame_of`, as `DataFrame.to_dict("records")` but for a few rows of many columns, where that one
    is slow."""
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.to_numpy(dtype=object).tolist()]
