"""Recipes: functions that return a suite of cells, everything in it typed and visible.

`SUITES[name](budget, seeds)`; None takes the recipe's own. A docstring says paper, cost, expected score and command.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from suites.recipes import paper, settings, smoke
from suites.spec import SpecError, Suite, check_choice

SUITES: dict[str, Callable[[str | None, tuple[int, ...] | None], Suite]] = {
    "smoke": smoke.smoke,
    "paper-light-x2": paper.light_x2,
}


def suite(
    name: str,
    *,
    budget: str | None = None,
    seeds: tuple[int, ...] | None = None,
    only: str | None = None,
    changes: Sequence[str] = (),
) -> Suite:
    """The suite `name` as asked for: its budget, seeds, cells whose name fits the glob `only`, `--set` changes.

    Raises SpecError for an unknown suite, budget, key or value, and when `only` leaves no cell.
    """
    check_choice("suite", name, tuple(SUITES))
    return settings.apply(select(SUITES[name](budget, seeds), only), changes)


def select(suite: Suite, only: str | None) -> Suite:
    """The cells whose name (variant/task/seed-N) fits the glob. Raises SpecError when there are none."""
    if only is None:
        return suite
    cells = tuple(cell for cell in suite.cells if fnmatchcase(cell.name, only))
    if not cells:
        names = ", ".join(cell.name for cell in suite.cells[:6]) + (", ..." if len(suite.cells) > 6 else "")
        raise SpecError(f"--only {only!r} fits no cell of {suite.name}: they are {names} (globs: 'base/*', '*/seed-0')")
    return replace(suite, cells=cells)


def parse_seeds(text: str) -> tuple[int, ...]:
    """ "0,1,2" -> (0, 1, 2), without repeats. Raises SpecError for anything else, and for negative numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SpecError(f"--seeds {text!r}: give whole numbers with commas between, such as 0,1,2")
    return tuple(dict.fromkeys(map(int, parts)))
