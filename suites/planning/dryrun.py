"""What `run --dry-run` prints: the state of every cell, the schedules, the cost of the rest, the detectable effects."""

import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pandas as pd
import torch

import models
from results.evidence import Evidence
from results.power import minimum_detectable_effect
from results.store import Store
from suites.execution import engine, preflight
from suites.planning import cluster, rates, scatter
from suites.progress import counted
from suites.spec import Cell, Family, Initial, Suite

ALPHA, POWER = 0.05, 0.8


def check_and_describe(
    suite: Suite,
    store: Store,
    backend: str,
    device: str,
    data: Path | None,
    init: Path | None = None,
    own: Path | None = None,
    gpus: int | None = None,
    concurrent: int = 1,
) -> list[str]:
    """`describe`, with the reasons why the cells cannot run here, if any. Raises as `preflight.obstacles` does."""
    notes = preflight.obstacles(suite.cells, backend, device, data, init, own)
    return describe(suite, store, device, notes, gpus, concurrent)


def describe(
    suite: Suite,
    store: Store,
    device: str = "cpu",
    notes: Sequence[str] = (),
    gpus: int | None = None,
    concurrent: int = 1,
) -> list[str]:
    """The lines of a dry run, `notes` last; nothing is written and nothing runs. Raises as `engine.plan` does.

    gpus: when they would end on so many, by `cluster`. concurrent: cells that each trains at a time.
    """
    planned, evidence = engine.plan(suite, store), Evidence(store)
    counts = Counter(state for _, state, _ in planned)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    lines = [f"{suite.name}: {counted(len(planned), 'cell')} ({states})", *suite.notes]
    lines += _cells(planned, store)
    rest = [cell for cell, state, _ in planned if state != "done"]
    lines += [*_schedules(suite.cells), *_starts(suite.cells), *_cost(rest, evidence, device, gpus, concurrent)]
    lines += [*detectable(suite, evidence), *notes]
    return [part for line in lines for part in _wrapped(line)]


def _cells(planned: Sequence[engine.Planned], store: Store) -> list[str]:
    """A line per cell with its folder; seeds of one variant in the same state share a line, without folders."""
    alike: dict[tuple, list[Cell]] = {}
    for cell, state, reason in planned:
        alike.setdefault((cell.variant.name, cell.task.name, state, reason), []).append(cell)
    lines = []
    for (variant, task, state, reason), cells in alike.items():
        seeds = ",".join(str(cell.seed) for cell in cells)
        folder = store.cell_folder(cells[0].config()).name if len(cells) == 1 else counted(len(cells), "cell")
        name = f"{variant}/{task}/seed-{seeds}"
        lines.append(f"  {folder:16}  {name:32} {state}{f' ({reason})' if reason else ''}")
    return lines


def _wrapped(line: str) -> list[str]:
    """The line wrapped at the terminal's width (whole where there is none), its second and further lines indented."""
    width = shutil.get_terminal_size((0, 0)).columns
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    whole = {"drop_whitespace": True, "break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(line, width, subsequent_indent=indent, **whole) if 0 < width < len(line) else [line]


def _schedules(cells: Sequence[Cell]) -> list[str]:
    """Every budget and what is trained and scored with it, for the tasks that share them."""
    tasks: dict[tuple, dict[str, None]] = {}
    for cell in cells:
        tasks.setdefault((cell.budget, cell.train_sets, cell.test_sets), {})[cell.task.name] = None
    lines = []
    for (budget, train_sets, test_sets), names in tasks.items():
        fields = " ".join(f"{key}={_plain(value)}" for key, value in asdict(budget).items() if key != "name")
        lines += [
            f"budget {budget.name}, {', '.join(names)}: {fields}",
            f"  trained on {_plain(train_sets)}, scored on {_plain(test_sets)}",
        ]
    return lines


def _starts(cells: Sequence[Cell]) -> list[str]:
    """A line for all cells that start from the same weights in the same way."""
    alike: dict[Initial, dict[str, None]] = {}
    for cell in cells:
        if cell.initial is not None:
            alike.setdefault(cell.initial, {})[cell.variant.name] = None
    lines = []
    for initial, variants in alike.items():
        weights = f"the weights {initial.weights[:16]}" if initial.weights else "weights that --init FILE names"
        left = [f"{what} {', '.join(globs)}" for what, globs in (("new", initial.new), ("without", initial.without))]
        told = "; ".join(part for part, globs in zip(left, (initial.new, initial.without), strict=True) if globs)
        lines.append(f"start from {weights}{f' ({told})' if told else ''}: {', '.join(variants)}")
    return lines


def _cost(
    rest: Sequence[Cell], evidence: Evidence, device: str, gpus: int | None = None, concurrent: int = 1
) -> list[str]:
    """Lines on the training of `rest`, variants of one rate together, and where the rates come from."""
    if not rest:
        return ["nothing is left to run"]
    costs = rates.estimate(rest, evidence, device, concurrent)
    costs["each"] = costs["iterations"] // costs["cells"]
    alike = ["task", "budget", "each", "seconds_per_iteration", "machine", "source", "note"]
    parts = list(costs.groupby(alike, sort=False, dropna=False))
    shared = Counter(source for (*_, source, _), _ in parts)
    numbers = {source: number for number, source in enumerate((s for s, n in shared.items() if n > 1), 1)}
    lines = ["cost of training what is not done (starting and scoring come on top):"]
    for (task, _, each, seconds, machine, source, note), part in parts:
        head = f"  {task}, {part['cells'].sum()} x {each:,} iterations"
        origin = "; ".join([str(numbers.get(source, source)), *([note] if isinstance(note, str) and note else [])])
        if pd.isna(seconds):
            lines.append(f"{head} [{origin}]")
        else:
            time = f"{1000 * seconds:,.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
            lines.append(f"{head}, {time} each, {rates.hours(part['hours'].sum())} on {machine} [{origin}]")
        lines.append(f"    {', '.join(part['variant'])}")
    lines += [f"  [{number}] {source}" for source, number in numbers.items()]
    lines.append(f"in all: {rates.summary(costs)}")
    if gpus:
        known = costs[costs["hours"].notna()]
        each = [row.hours / row.cells for row in known.itertuples() for _ in range(row.cells)]
        lines += [_storage(rest), *([cluster.sentence(each, gpus)] if each else [])]
    return lines


def _storage(rest: Sequence[Cell]) -> str:
    """The disk that weights take in the end, and checkpoints while all of them train at once: two of a cell,
    each of weights and Adam's two averages."""
    sizes: dict[tuple, int] = {}
    total = 0
    for cell in rest:
        if cell.variant.source is not None:
            continue  # a class of the user's is not built before it runs
        arguments = cell.task.network | cell.variant.overrides
        key = cell.variant.model, repr(sorted(arguments.items()))
        if key not in sizes:
            with torch.device("meta"):
                network = models.build(cell.variant.model, **arguments)
            sizes[key] = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
        total += sizes[key]
    weights = total / 2**20
    return f"storage: {weights:,.0f} MiB of weights in the end, {6 * weights:,.0f} MiB of checkpoints at most"


def detectable(suite: Suite, evidence: Evidence) -> list[str]:
    """Lines on the differences from each family's base that so many seeds find; none for a suite that compares nothing.

    Counted is what the suite itself holds: variants that share seeds with their base. Two numbers a family and
    dataset: for one difference, and for the first step of Holm's procedure in the family. The variance is pooled over
    the family: k differences from a shared base at n seeds leave k (n - 1) degrees of freedom (two-way layout, variant
    by seed).
    """
    known, rows, sources, alone = scatter.measured(evidence) + list(scatter.PUBLISHED), [], {}, []
    for family in suite.compared():
        counts = _shared_seeds(suite, family)
        if not counts:
            alone.append(f"{family.name} ({family.base.task.name})")
            continue
        seeds, variants = min(counts), len(counts)
        task, budget = family.base.task.name, family.base.budget.name
        effects = []
        for dataset in family.base.test_sets:
            found = scatter.of(task, budget, dataset, known)
            if found and seeds > 1:
                sources[task, found] = None
                one, holm = (
                    found.sd * _unit_effect(seeds, alpha, variants * (seeds - 1)) for alpha in (ALPHA, ALPHA / variants)
                )
                effects.append(f"{dataset} {one:.3f} ({holm:.3f})")
        unknown = "scatter not known yet: the first two seeds tell" if seeds > 1 else "give two or more --seeds"
        head = f"{family.name}, {task}"
        compared = f"{variants} against {family.base.variant.name}, {counted(seeds, 'seed')}"
        rows.append(f"  {head:26} {compared:31} {', '.join(effects) or unknown}")
    title = (
        f"smallest difference from the base, in dB, found with a probability of {POWER:.0%} (two-sided {ALPHA:.0%}, "
        "paired by seed, variance pooled over the family; in brackets at Holm's first step):"
    )
    assumed = [
        "  {}, {}: sd {:.3f} dB of a paired difference, 95% {:.3f} to {:.3f} ({} of freedom) [{}]".format(
            task, one.dataset, one.sd, *one.interval(), counted(one.df, "degree"), one.source
        )
        for task, one in sources
    ]
    lines = [title, *rows] if rows else []
    if assumed:
        lines += ["assumed scatter, which the differences above are proportional to:", *assumed]
    if alone:
        lines.append(f"compared with nothing, for their base is no part of this plan: {', '.join(alone)}")
    return lines


@cache
def _unit_effect(seeds: int, alpha: float, df: int) -> float:
    """The smallest detectable difference, in standard deviations of a paired difference."""
    return minimum_detectable_effect(1.0, seeds, alpha, POWER, df=df)


def _shared_seeds(suite: Suite, family: Family) -> list[int]:
    """For each variant of the family, how many seeds it has in common with the base within the suite, if any."""

    def seeds(member: Cell) -> set[int]:
        return {cell.seed for cell in suite.cells if replace(member, seed=cell.seed) == cell}

    base = seeds(family.base)
    others = (cell for _, cell in family.members if cell != family.base)
    return [count for cell in others if (count := len(seeds(cell) & base))]


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
