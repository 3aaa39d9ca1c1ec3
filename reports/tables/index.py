"""Tables as long frames: published | measured | difference | interval | verdict, one row per number.

The paper's tables go by the names in `results/published/` (see `reports.tables.paper`); what was trained here goes by
its budget: `smoke`, `reduced`, `paper` (see `reports.tables.trained`); what is made of records of weights has a module
of its own in RECORDED. All are pure functions of what is stored and committed.
"""

from difflib import get_close_matches
from functools import lru_cache

import pandas as pd

from reports.tables import paper, sensitivity, steps, trained
from reports.tables.analyses import interventions, prompt_quality
from reports.tables.rows import COLUMNS, TableError
from results import published
from results.evidence import Evidence
from results.sets import BUDGETS

ALL = "all"  # `tables all` prints every table
CLAIMS = "claims"  # no frame: `tables claims` prints what `reports.claims` makes of all of them

# Each with NAME, CAPTION, NEEDS (what to run for it), known(evidence) and rows(evidence).
RECORDED = {module.NAME: module for module in (sensitivity, interventions, prompt_quality)}


def names(evidence: Evidence) -> list[str]:
    """The published tables, then those of what `evidence` holds: records of weights, budgets of trained cells."""
    recorded = [name for name, module in RECORDED.items() if module.known(evidence)]
    return [*published.committed().tables, *recorded, *_budgets(evidence)]


@lru_cache(maxsize=4)
def tables(evidence: Evidence) -> dict[str, pd.DataFrame]:
    """Every table of `names(evidence)`, by name, made once."""
    return {name: table(name, evidence) for name in names(evidence)}


def problems(evidence: Evidence) -> list[str]:
    """One line for everything that was left out: files of published numbers, damaged parts of what is stored."""
    return [*published.committed().problems, *evidence.problems]


def caption(name: str) -> str:
    """What the table `name` shows, in one line."""
    if name in published.committed().tables:
        return published.committed().captions[name]
    if name in RECORDED:
        return RECORDED[name].CAPTION
    scale = "" if name == "paper" else "; not paper scale, not comparable with published scores"
    return f"Trained here at the {name} budget: differences from the base, paired by seed{scale}"


def table(name: str, evidence: Evidence) -> pd.DataFrame:
    """The frame of a table, with COLUMNS. `published` is text as printed, `measured` to `high` are numbers or None.

    Raises TableError for a name that is not among `names(evidence)`.
    """
    if name in published.committed().tables:
        models = {model for frame in published.committed().tables.values() for model in frame["model"]}
        rows = paper.rows(published.committed().tables[name], evidence, models)
    elif name in _budgets(evidence):
        rows = trained.rows(name, evidence, steps.steps(published.committed().tables))
    elif name in RECORDED and RECORDED[name].known(evidence):
        rows = RECORDED[name].rows(evidence)
    elif name in BUDGETS:
        raise TableError(f"no cell of the budget {name!r} is stored yet: runner.py run SUITE --budget {name}")
    elif name in RECORDED:
        raise TableError(f"there is nothing for the table {name!r} yet: {RECORDED[name].NEEDS}")
    elif name == CLAIMS:
        raise TableError("the claims are a text of their own, not one of several tables: runner.py tables claims")
    else:
        known = [*names(evidence), CLAIMS, ALL]
        near = [each for each in known if each.casefold() == name.casefold()] or get_close_matches(name, known, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        broken = "".join(f"; left out: {problem}" for problem in published.committed().problems)
        raise TableError(f"unknown table {name!r}: {meant}choose from {', '.join(known)}{broken}")
    values = [[{"table": name, **row}.get(column) for column in COLUMNS] for row in rows]
    return pd.DataFrame(values, columns=list(COLUMNS), dtype=object)


def _budgets(evidence: Evidence) -> list[str]:
    return [name for name in BUDGETS if (evidence.cells["budget"] == name).any()]
