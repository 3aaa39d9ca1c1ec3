"""The documents of docs/ whose tables are made from committed records: `runner.py tables --documents`.

A table stands between two comments of its document, `<!-- table: NAME -->` and `<!-- end -->`; the text around it is
written by hand. A test holds the documents to what is committed.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from reports import claims
from reports.costs import tables as efficiency
from reports.figures import curve
from reports.pages import analysed, machines, performance, pilot, report
from reports.statistics import coverage
from reports.tables.analyses import changes
from reports.tables.render import text_grid
from results import measured, records
from results.agreement import pairs
from results.evidence import Evidence
from results.store import Store

FOLDER = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Tables = Mapping[str, Callable[[], str]]


def tables() -> dict[str, Tables]:
    """What makes the tables of each document, by its file's name."""
    return {
        "analyses.md": analysed.tables(_committed),
        "classes.md": {"classes": lambda: analysed.class_table(_committed().analyses)},
        "findings.md": {name: partial(_claims, name) for name in claims.SECTIONS},
        "interventions.md": changes.tables(_committed),
        "efficiency.md": efficiency.tables(),
        "performance.md": performance.tables(),
        "trainer.md": performance.learning_tables(),
        "pilot.md": pilot.tables(pilot.load()),
        "scaling.md": {"machines": machines.table},
        "statistics.md": {"coverage": lambda: coverage_table(coverage.load())},
    }


@cache
def _committed() -> Evidence:
    """What is committed, without any store."""
    return Evidence(Store(FOLDER / "none"))


def _claims(section: str) -> str:
    return report.claims_table(claims.judge(_committed(), claims.load()[section]))


def filled(text: str, made: Tables) -> str:
    """The document with every table as it is made now. Raises KeyError for a table that nothing makes."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{made[match[2]]()}\n\n{match[3]}", text)


def write() -> list[str]:
    """Puts the tables of now into the documents, and draws the learning curves anew where their document changed.

    Before that, what two machines scored is written into `limits.FILE`, which tables go by. Returns a line per file.
    """
    lines = [pairs.write()]
    for name, made in tables().items():
        path = FOLDER / name
        old = path.read_text()
        new = filled(old, made)
        if new != old:
            records.write_bytes(path, new.encode())
            if "curve" in made:
                curve.draw(curve.load(measured.FOLDER), FOLDER / "figures" / "curve.png")
        lines.append(f"{path}: {'written' if new != old else 'as before'}")
    return lines


def coverage_table(frame: pd.DataFrame) -> str:
    """Coverage in per cent with its standard error, and the mean half width."""
    rows = []
    for row in frame.itertuples():
        covers = f"{100 * row.coverage:.1f} ± {100 * row.standard_error:.1f}"
        width = "" if np.isnan(row.half_width) else f"{row.half_width:.2f}"
        rows.append([row.interval, row.scatter, str(row.n), covers, width])
    return text_grid(("interval", "errors", "n", "covers, %", "half width"), rows, 2)
