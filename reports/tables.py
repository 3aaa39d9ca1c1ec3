"""Tables as long frames: published | measured | difference | interval | verdict, one row per number.

The paper's tables go by the names in `results/published/` (see `reports.paper`); what was trained here goes by its
budget: `smoke`, `reduced`, `paper` (see `reports.trained`). All are pure functions of what is stored.
"""

from functools import cache

import pandas as pd

from reports import paper, trained
from reports.rows import COLUMNS, TableError
from results import published
from results.store import Store

BUDGETS = ("smoke", "reduced", "paper")


def names(store: Store | None = None) -> list[str]:
    """The published tables, then the budgets of the cells in `store`."""
    return [*_published().tables, *(_budgets(store.cells()) if store is not None else ())]


def problems() -> list[str]:
    """One line for every file of published numbers that was left out."""
    return list(_published().problems)


def caption(name: str) -> str:
    """What the table `name` shows, in one line."""
    if name in _published().tables:
        return _published().captions[name]
    scale = "" if name == "paper" else "; not paper scale, not comparable with published scores"
    return f"Trained here at the {name} budget: differences from the base, paired by seed{scale}"


def table(name: str, store: Store) -> pd.DataFrame:
    """The frame of a table, with COLUMNS. `published` is text as printed, `measured` to `high` are numbers or None.

    Raises TableError for a name that is not among `names(store)`.
    """
    cells = store.cells()
    if name in _published().tables:
        rows = paper.rows(_published().tables[name], store)
    elif name in _budgets(cells):
        rows = trained.rows(cells[cells["budget"] == name], store)
    else:
        raise TableError(f"unknown table {name!r}: choose from {', '.join(names(store))}")
    values = [[{"table": name, **row}.get(column) for column in COLUMNS] for row in rows]
    return pd.DataFrame(values, columns=list(COLUMNS), dtype=object)


@cache
def _published() -> published.Published:
    return published.load()


def _budgets(cells: pd.DataFrame) -> list[str]:
    return [name for name in BUDGETS if (cells["budget"] == name).any()]
