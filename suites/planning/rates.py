"""What a suite costs: its iterations times a measured time per iteration, with the source of that time.

The best source wins: a finished cell (of the store, or committed under results/measured) or a committed profile on this
machine, then on another, then the official implementation as measured on a named GPU. Nothing is guessed: without a
source there is no estimate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from results import measured as committed
from results import records
from results.evidence import Evidence
from suites import environment
from suites.progress import counted, duration
from suites.spec import Cell

COLUMNS = (
    *("variant", "model", "task", "budget", "cells", "iterations", "seconds_per_iteration", "hours"),
    *("machine", "source", "note"),
)
OFFICIAL = "official code (csguoh/MambaIR 33d7b34) with its CUDA scan, forward + L1 + backward + Adam, torch 2.11"


@dataclass(frozen=True)
class Rate:
    """Seconds of one training iteration, where and how it was measured."""

    model: str
    overrides: dict[str, Any]
    task: str
    batch: int
    patch: int
    precision: str
    device_type: str
    machine: str
    seconds: float
    source: str
    abreast: int = 1  # cells trained at a time, of which this is a share
    of_cell: bool = False  # of a whole training, not of a step


# Medians of CUDA-event times after warm-up, measured on 2026-11-23.
PUBLISHED = tuple(
    Rate(model, {}, "sr-x2", batch, 64, precision, "cuda", machine, milliseconds / 1000, OFFICIAL)
    for model, batch, precision, machine, milliseconds in (
        ("mambairv2-light", 32, "fp32", "NVIDIA H200", 280.3),
        ("mambairv2-light", 32, "tf32", "NVIDIA H200", 250.1),
        ("mambairv2-base", 4, "fp32", "NVIDIA H200", 394.7),
        ("mambairv2-base", 4, "tf32", "NVIDIA H200", 429.6),
        ("mambair-light", 32, "fp32", "NVIDIA H200", 487.1),
        ("mambair-light", 32, "tf32", "NVIDIA H200", 302.6),
        ("mambairv2-light", 32, "fp32", "NVIDIA H100 80GB HBM3", 334.1),
        ("mambairv2-light", 32, "tf32", "NVIDIA H100 80GB HBM3", 318.3),
    )
)
# So that the first dry run can say something: CPU time between 50 and 350 iterations of the smoke suite's base cell.
SMOKE = Rate(
    *("mambairv2-tiny", {}, "sr-x2", 4, 24, "fp32", "cpu", "AMD EPYC (Zen 4), 1 thread", 0.0291),
    source="this code, CPU time of a step, torch 2.13, 2026-11-23",
)


def measured(evidence: Evidence) -> list[Rate]:
    """Rates of all finished cells that recorded their training time."""
    rates, cells = [], evidence.cells
    for row in cells[cells["state"] == "done"].to_dict("records"):
        if not (row["train_steps"] and row["train_seconds"]):
            continue
        abreast = int(row["abreast"]) if pd.notna(row["abreast"]) else 1
        budget = row["config"]["budget"]
        where = "a finished cell here" if (evidence.store.root / row["hash"]).is_dir() else "a committed cell"
        rates.append(
            Rate(
                row["model"],
                row["overrides"],
                row["task"],
                budget["batch"],
                budget["patch"],
                budget["precision"],
                row["device_type"],
                _machine(row["device"], row["device_type"], row["threads"]),
                row["train_seconds"] / row["train_steps"],
                f"{where} ({row['hash']}, commit {str(row['commit'])[:8]})",
                abreast,
                of_cell=True,
            )
        )
    return rates


def profiled() -> list[Rate]:
    """Rates of the training steps in committed profiles, launched as `run` launches them: as graphs on a GPU."""
    rates = []
    for profile in committed.profiles():
        machine = profile["environment"]
        kind, launch = machine["device_type"], "graph" if machine["device_type"] == "cuda" else "eager"
        where = _machine(machine["device"], kind, machine["threads"])
        source = f"this code's profile ({profile['file']}, commit {machine['commit'][:8]})"
        for row in profile["rows"]:
            taken = (row["mode"], row["launch"], row["status"]) == ("training", launch, "ok")
            if taken and row["height"] == row["width"]:
                what = row["model"], row["overrides"], row["task"], row["batch"], row["height"], row["precision"]
                rates.append(Rate(*what, kind, where, row["median_ms"] / 1000, source))
    return rates


def _machine(device: str, device_type: str, threads: int | None) -> str:
    return f"{device}, {counted(threads, 'thread')}" if device_type == "cpu" else device


def rate_of(
    cell: Cell, rates: Sequence[Rate], device_type: str, here: str, concurrent: int = 1
) -> tuple[Rate, str] | None:
    """The best of `rates` for a cell, and in words how it differs from the cell; None when no rate is comparable.

    Needed: the same model and precision. Preferred, in this order: the same kind of device, this machine, the same
    task, the variant's own overrides (else the model without any), this code over the official one, the same batch and
    patch (else the time is scaled by the pixels of a batch: what a network does to a task's input costs about the same
    whatever the task). Of cells that are trained `concurrent` at a time the share of one that was trained so is best,
    and of another number at a time no share is any use. Where several trained cells of one machine are equally good,
    the mean of their times: one cell takes 10 % more or less beside others.
    """
    wanted = records.canonical(cell.variant.overrides)

    def worth(rate: Rate) -> tuple[bool, ...]:
        own = records.canonical(rate.overrides) == wanted
        same = (rate.batch, rate.patch) == (cell.budget.batch, cell.budget.patch)
        near = rate.device_type == device_type, here in rate.machine
        return *near, rate.abreast == concurrent, rate.task == cell.task.name, own, rate.source != OFFICIAL, same

    fitting = [
        rate
        for rate in rates
        if (rate.model, rate.precision) == (cell.variant.model, cell.budget.precision)
        and records.canonical(rate.overrides) in (wanted, {})
        and rate.abreast in (1, concurrent)
    ]
    if not fitting:
        return None
    best = max(fitting, key=worth)
    trained = [rate for rate in fitting if rate.of_cell and (worth(rate), rate.machine) == (worth(best), best.machine)]
    notes = [] if best.task == cell.task.name else [f"as on {best.task}"]
    if records.canonical(best.overrides) != wanted:
        notes.append("the model without its overrides")
    if (best.batch, best.patch) != (cell.budget.batch, cell.budget.patch):
        notes.append(f"scaled by pixels from batch {best.batch}, patch {best.patch}")
    if best.abreast != concurrent:
        notes.append("measured alone")
    elif concurrent > 1:
        notes.append(f"a share of {concurrent} at a time")
    if best.of_cell and len(trained) > 1:
        seconds = sum(rate.seconds for rate in trained) / len(trained)
        best = replace(best, seconds=seconds, source=f"mean of {best.source} and {len(trained) - 1} more")
    return best, "; ".join(notes)


def estimate(cells: Sequence[Cell], evidence: Evidence, device: str = "cpu", concurrent: int = 1) -> pd.DataFrame:
    """A row per variant, task and budget of `cells` (`COLUMNS`): how many, iterations of all together, hours of device
    time one after another, and what machine and measurement the time per iteration comes from.

    seconds_per_iteration and hours are None, and the source says so, where nothing comparable was ever measured.
    Evaluation is not part of it.
    """
    machine = environment.describe(device, "")
    rates = [*measured(evidence), *profiled(), SMOKE, *PUBLISHED]
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.variant.name, cell.task.name, cell.budget.name), []).append(cell)
    rows = []
    for members in groups.values():
        cell, total = members[0], sum(member.budget.iterations for member in members)
        row = {
            "variant": cell.variant.name,
            "model": cell.variant.model,
            "task": cell.task.name,
            "budget": cell.budget.name,
            "cells": len(members),
            "iterations": total,
        }
        found = rate_of(cell, rates, machine["device_type"], machine["device"], concurrent)
        if found is None:
            row["source"] = "never measured: run a short version to learn it"
        else:
            rate, note = found
            pixels = cell.budget.batch * cell.budget.patch**2 / (rate.batch * rate.patch**2)
            seconds = rate.seconds * pixels
            row |= {"seconds_per_iteration": seconds, "hours": seconds * total / 3600}
            row |= {"machine": rate.machine, "source": rate.source, "note": note}
        rows.append(row)
    return pd.DataFrame([[row.get(name) for name in COLUMNS] for row in rows], columns=list(COLUMNS), dtype=object)


def summary(costs: pd.DataFrame) -> str:
    """One line on a frame of `estimate`: cells, iterations, and hours per machine that a rate comes from; "about" where
    a rate was not measured on just these networks, batches and patches."""
    known = costs[costs["hours"].notna()]
    spent = [
        f"{'about ' * bool(part['note'].any())}{hours(part['hours'].sum())} on {name}"
        for name, part in known.groupby("machine", sort=False)
    ]
    unknown = int(costs.loc[costs["hours"].isna(), "cells"].sum())
    parts = [counted(costs["cells"].sum(), "cell"), counted(costs["iterations"].sum(), "iteration"), *spent]
    return ", ".join([*parts, *([f"{counted(unknown, 'cell')} of unknown cost"] if unknown else [])])


def hours(number: float) -> str:
    """Device time in hours; below one hour in minutes and seconds."""
    if number >= 1000:
        return f"{number:,.0f} h"
    return f"{number:.3g} h" if number >= 1 else duration(3600 * number)
