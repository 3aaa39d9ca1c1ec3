"""What was typed for `profile` and `complexity`, checked: networks, sizes, and the plan of all combinations."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch

import models
from models.ops import scan
from results.published import parse_overrides
from suites.benchmark import parse_size
from suites.benchmark.comparison import Candidate, Plan, Point
from suites.benchmark.launch_modes import LAUNCH_MODES
from suites.network_file import NetworkFile
from suites.spec import PRECISIONS, ROUTINGS, SpecError, Task, check_choice

MODES = ("inference", "training")


def plan(
    variants: str | None,
    task: Task,
    *,
    own: NetworkFile | None = None,
    sizes: str = "64x64",
    modes: str = "inference",
    batches: str = "1",
    precisions: str = "fp32",
    backends: str = "auto",
    launches: str = "eager",
    routing: str = "gumbel",
    rounds: int,
    device: str,
) -> Plan:
    """Every combination of the comma-separated choices, as typed. The first candidate is the one ratios refer to.

    variants: of the catalogue; own: a user's network, which comes after them and has no scan backend to choose.
    backends: names, "auto" (the one that networks choose here), "all" (every one that can run here). launches: of
    LAUNCH_MODES. Raises SpecError or ModelError for what does not exist; what cannot run here is found by running it.
    """
    torch_device = torch.device(device)
    for mode in (ways := _split("--mode", modes)):
        check_choice("mode", mode, MODES)
    for precision in (kinds := _split("--precision", precisions)):
        check_choice("precision", precision, PRECISIONS)
    for launch in (launched := _split("--launch", launches)):
        check_choice("launch", launch, LAUNCH_MODES)
    check_choice("routing", routing, ROUTINGS)
    if rounds < 1:
        raise SpecError(f"--rounds is {rounds}: at least 1 is needed")
    if not all(batch.isdecimal() and int(batch) for batch in _split("--batch", batches)):
        raise SpecError(f"--batch is {batches!r}: give whole numbers of at least 1, for example 1,8")
    chosen = _backends(_split("--backends", backends), torch_device)
    names = _variants(variants, task) if variants is not None else []
    candidates = [
        Candidate(variant, precision, backend, launch)
        for variant, precision, backend, launch in itertools.product(names, kinds, chosen, launched)
    ]
    if own is not None:
        candidates += [Candidate(own.label, *how, own) for how in itertools.product(kinds, ("none",), launched)]
    shapes = [parse_size(size, "the network's input") for size in _split("--sizes", sizes)]
    numbers = [int(batch) for batch in _split("--batch", batches)]
    points = [Point(mode, shape, number) for mode in ways for number in numbers for shape in shapes]
    unique = tuple(dict.fromkeys(candidates)), tuple(dict.fromkeys(points))
    return Plan(*unique, task, routing, rounds, torch_device)


def _split(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise SpecError(f"{option} is empty: give at least one value")
    return names


def _variants(text: str, task: Task) -> list[str]:
    variants = [" ".join(variant.split()) for variant in _split("--models", text)]
    for variant in variants:
        parse_variant(variant, task)
    return variants


def _backends(names: Sequence[str], device: torch.device) -> list[str]:
    """Names of scan backends without "auto" and "all". Those that cannot run here stay, when they were asked for."""
    chosen = []
    for name in names:
        if name == "auto":
            chosen.append(scan.resolve("auto", device))
        elif name == "all":
            modules = {other: scan.load(other) for other in (*scan.BACKENDS, *scan.PEERS)}
            fitting = [n for n, m in modules.items() if m.DEVICES is None or device.type in m.DEVICES]
            chosen += [n for n in fitting if modules[n].unavailable() is None]
        else:
            scan.load(name)  # raises for an unknown one
            chosen.append(name)
    return chosen


def parse_variant(text: str, task: Task) -> tuple[str, dict[str, Any]]:
    """(catalogue name, overrides) of a network that exists for `task`.

    Raises SpecError for something that is not NAME=VALUE and for an unknown argument, ModelError for an unknown name
    or a value that no network has.
    """
    name, *changes = text.split() or [""]
    if not all("=" in change for change in changes):
        raise SpecError(f"{text!r}: write overrides as NAME=VALUE after the model, separated by spaces")
    overrides = parse_overrides(" ".join(changes))
    try:
        models.configure(name, **{**task.network, **overrides})
    except TypeError as error:
        raise SpecError(f"{text!r}: {error}") from error
    return name, overrides
