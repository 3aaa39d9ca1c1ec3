"""Recipes: functions that return a suite of cells, everything in it typed and visible.

`SUITES[name](budget, seeds)`; None takes the recipe's own. A docstring says paper, cost, expected score and command.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from suites.network_file import NetworkFile
from suites.recipes import ablations, curve, options, own, paper, pilot, recovery, settings, smoke
from suites.spec import Cell, Initial, SpecError, Suite, Task, check_choice

__all__ = ["SUITES", "choose", "parse_seeds", "select"]

SUITES: dict[str, Callable[[str | None, tuple[int, ...] | None], Suite]] = {
    "smoke": smoke.smoke,
    "ablations": ablations.ablations,
    "paper-light-x2": paper.light_x2,
    "pilot": pilot.pilot,
    "curve": curve.curve,
    "recovery": recovery.recovery,
}


def choose(
    name: str | None,
    *,
    budget: str | None = None,
    seeds: str | Sequence[int] | None = None,
    only: str | None = None,
    base: bool = True,
    changes: Sequence[str] = (),
    init: Path | None = None,
    new: str | None = None,
    without: str | None = None,
    network: NetworkFile | None = None,
    variations: Sequence[str] = (),
    file: Path | None = None,
    task: Task | None = None,
) -> Suite:
    """The suite `name`, or that of an option file, as asked for: its budget, seeds ("0,1,2"), cells that fit the glob
    `only`, `--set` changes.

    base: whether `only` brings along what its cells are compared with (see `select`). `notes` of the suite say so.
    init: file of the weights that all cells start from; new, without: globs, by commas, that are added to a cell's own
    (`suites.spec.Initial`).
    network: a class of the user's that is trained beside the suite's bases, in place of its other variants; without
    `only` on the first task alone. variations: see `own.beside`.
    file: the option file (`options.suite_of`), without `name` and `budget`. task: see `settings.on_task`.
    Raises SpecError for an unknown suite, budget, key or value, and when `only` leaves no cell; OSError and ModelError
    for a file of weights that cannot be read.
    """
    numbers = parse_seeds(seeds) if isinstance(seeds, str) else None if seeds is None else tuple(seeds)
    whole = _whole(name, budget, numbers, file, changes, init is not None)
    whole = whole if task is None else settings.on_task(whole, task)
    if network is not None:
        return _with(network, variations, whole, only, changes, init)
    if variations:
        raise SpecError(f"--vary {variations[0]}: it is for the class of --network FILE.py:Class, which is not there")
    selected = select(whole, only, base)
    suite = settings.apply(selected, changes)  # of the same length and order, under other names
    if init is not None:
        suite = _starting_from(suite, init, _globs(new), _globs(without))
    elif new or without:
        raise SpecError("--init-new and --init-without say how weights are taken, and --init FILE names none")
    pairs = zip(selected.cells, suite.cells, strict=True)
    brought = [cell.name for before, cell in pairs if only and not _fits(before, only)]
    if not brought:
        return replace(suite, notes=whole.notes)
    names = f"{', '.join(brought[:4])}{', ...' if len(brought) > 4 else ''}"
    note = f"with the bases that the variants are compared with: {names} (--no-base leaves them out)"
    return replace(suite, notes=(*whole.notes, note))


def _whole(
    name: str | None, budget: str | None, seeds: tuple[int, ...] | None, file: Path | None, changes: Sequence[str],
    starts: bool,
) -> Suite:  # fmt: skip
    """The suite before anything is chosen or changed."""
    if file is not None:
        if name or budget:
            raise SpecError(f"--options {file} says what to run and for how long: leave out {name or '--budget'}")
        named = (change.partition("=")[0].strip() for change in changes)
        return options.suite_of(file, seeds, tuple(key for key in named if key in settings.DATASETS), starts)
    if name is None:
        raise SpecError(f"name a suite ({', '.join(SUITES)}), or an official option file with --options FILE")
    check_choice("suite", name, tuple(SUITES))
    return SUITES[name](budget, seeds)


def _with(
    network: NetworkFile, variations: Sequence[str], suite: Suite, only: str | None, changes: Sequence[str],
    init: Path | None,
) -> Suite:  # fmt: skip
    """The bases of `suite` as `own.beside` has them; their settings are changed first."""
    if init is not None:
        raise SpecError(f"--init {init}: a class in a file starts from its own initial values")
    chosen = only or f"*/{suite.cells[0].task.name}/*"
    bases = tuple(cell for cell in suite.cells if cell.variant.name == own.BASE and _fits(cell, chosen))
    found = own.beside(settings.apply(replace(suite, cells=bases, families=()), changes), network, variations)
    note = f"{network.label} beside {found.cells[0].variant.model}, on {suite.cells[0].task.name} (--only for others)"
    return found if only else replace(found, notes=(*suite.notes, note))


def _starting_from(suite: Suite, file: Path, new: tuple[str, ...], without: tuple[str, ...]) -> Suite:
    """`suite` with every cell started from the weights of `file`. No published schedule does so: "paper" is "reduced"
    then."""
    import models

    weights = models.weights_hash(file)

    def started(cell: Cell) -> Cell:
        own = cell.initial or Initial()
        initial = Initial(weights, (*own.new, *new), (*own.without, *without))
        label = "reduced" if cell.budget.name == "paper" else cell.budget.name
        return replace(cell, initial=initial, budget=replace(cell.budget, name=label))

    families = []
    for family in suite.families:
        members = tuple((label, started(member)) for label, member in family.members)
        families.append(replace(family, base=started(family.base), members=members))
    return replace(suite, cells=tuple(map(started, suite.cells)), families=tuple(families))


def _globs(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def select(suite: Suite, only: str | None, base: bool = True) -> Suite:
    """The cells whose name (variant/task/seed-N) fits one of the globs, which commas separate.

    With `base` also the bases of their families, at the seeds of these cells: without its base a variant is compared
    with nothing. Raises SpecError when no cell fits.
    """
    if only is None:
        return suite
    fitting = {cell.name: cell for cell in suite.cells if _fits(cell, only)}
    if not fitting:
        names = ", ".join(cell.name for cell in suite.cells[:6]) + (", ..." if len(suite.cells) > 6 else "")
        raise SpecError(f"--only {only!r} fits no cell of {suite.name}: they are {names} (globs: 'base/*', '*/seed-0')")
    bases = {
        replace(family.base, seed=cell.seed).name
        for family in suite.families
        for cell in fitting.values()
        if base and any(replace(member, seed=cell.seed) == cell for _, member in family.members)
    }
    return replace(suite, cells=tuple(cell for cell in suite.cells if cell.name in fitting or cell.name in bases))


def _fits(cell: Cell, globs: str) -> bool:
    return any(fnmatchcase(cell.name, glob.strip()) for glob in globs.split(","))


def parse_seeds(text: str) -> tuple[int, ...]:
    """ "0,1,2" -> (0, 1, 2), without repeats. Raises SpecError for anything else, and for negative numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SpecError(f"--seeds {text!r}: give whole numbers with commas between, such as 0,1,2")
    return tuple(dict.fromkeys(map(int, parts)))
