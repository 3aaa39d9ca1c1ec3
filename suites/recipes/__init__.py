"""Recipes: functions that return a suite of cells, everything in it typed and visible.

`SUITES[name](budget, seeds)`; None takes the recipe's own. A docstring says paper, cost, expected score and command.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase

from results.store import Store
from suites import engine
from suites.recipes import paper, rates, settings, smoke
from suites.spec import SpecError, Suite, check_choice

SUITES: dict[str, Callable[[str | None, tuple[int, ...] | None], Suite]] = {
    "smoke": smoke.smoke,
    "paper-light-x2": paper.light_x2,
}


def choose(
    name: str,
    *,
    budget: str | None = None,
    seeds: str | Sequence[int] | None = None,
    only: str | None = None,
    changes: Sequence[str] = (),
) -> Suite:
    """The suite `name` as asked for: its budget, seeds ("0,1,2"), cells that fit the glob `only`, `--set` changes.

    Raises SpecError for an unknown suite, budget, key or value, and when `only` leaves no cell.
    """
    check_choice("suite", name, tuple(SUITES))
    numbers = parse_seeds(seeds) if isinstance(seeds, str) else None if seeds is None else tuple(seeds)
    return settings.apply(select(SUITES[name](budget, numbers), only), changes)


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


def describe(suite: Suite, store: Store, device: str = "cpu") -> list[str]:
    """What `--dry-run` prints: how every cell stands, the schedules in full, and what the rest will cost."""
    planned = engine.plan(suite, store)
    counts = Counter(state for _, state, _ in planned)
    lines = [f"{suite.name}: {len(planned)} cells ({', '.join(f'{count} {state}' for state, count in counts.items())})"]
    for cell, state, reason in planned:
        name = store.cell_folder(cell.config()).name
        lines.append(f"  {name}  {cell.name:32} {state}{f' ({reason})' if reason else ''}")
    for budget, train_sets, test_sets in dict.fromkeys((c.budget, c.train_sets, c.test_sets) for c in suite.cells):
        fields = " ".join(f"{key}={_plain(value)}" for key, value in asdict(budget).items() if key != "name")
        lines += [
            f"budget {budget.name}: {fields}",
            f"  trained on {_plain(train_sets)}, scored on {_plain(test_sets)}",
        ]
    rest = [cell for cell, state, _ in planned if state != "done"]
    if not rest:
        return [*lines, "nothing is left to run"]
    costs = rates.estimate(rest, store, device)
    lines.append("cost of training what is not done (scoring comes on top):")
    for row in costs.to_dict("records"):
        head = f"  {row['variant']:16} {row['cells']} x {row['iterations'] // row['cells']:,} iterations"
        if row["hours"] is None:
            lines.append(f"{head}: {row['source']}")
        else:
            each = f"{1000 * row['seconds_per_iteration']:.3g} ms each, {rates.hours(row['hours'])}"
            lines.append(f"{head}, {each} on {row['machine']} [{row['source']}]")
    return [*lines, f"in all: {rates.summary(costs)}"]


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
