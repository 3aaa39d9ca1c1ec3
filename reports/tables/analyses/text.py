"""Summaries of analyses as lines for a terminal of 100 columns."""

import textwrap
from collections.abc import Mapping, Sequence

import pandas as pd
from tabulate import DataRow, TableFormat, tabulate

from reports.tables.rows import units

WIDTH = 100
NARROW = TableFormat(None, None, None, None, DataRow("", " ", ""), DataRow("", " ", ""), 0, None)  # a space between
CONSTANT = ("network", "model", "set", "images", "layers")  # columns that go into the title wherever they can


def grid(title: str, frame: pd.DataFrame, means: Sequence[str], digits: Mapping[str, int] | None = None) -> list[str]:
    """`frame` below `title` and a line with those of CONSTANT that are the same in every row.

    means: columns x with x low and x high, their 95 % interval, shown as one column, as `lowest layer` and
    `highest layer` are. digits: behind the point, by column; 3.
    """
    texts, said, shown = {}, [], {}
    for name in frame.columns:
        places = (digits or {}).get(name.removesuffix(" low").removesuffix(" high"), 3)
        texts[name] = [number(value, places) for value in frame[name]]
    for name, column in texts.items():
        if name in means:
            ends = zip(column, texts[f"{name} low"], texts[f"{name} high"], strict=True)
            shown[name] = [f"{mean} [{low}, {high}]" if low else mean for mean, low, high in ends]
        elif name in CONSTANT and len(set(column)) == 1:
            said.append(units(int(column[0]), name[:-1]) if name in ("images", "layers") else column[0])
        elif name == "lowest layer":
            shown["by layer"] = [" to ".join(ends) for ends in zip(column, texts["highest layer"], strict=True)]
        elif name != "highest layer" and not any(name in (f"{mean} low", f"{mean} high") for mean in means):
            shown[name] = column
    names = [name for name in shown if name in frame and frame[name].map(type).eq(str).all()]
    sides = ["left" if name in names else "right" for name in shown]
    table = [list(shown), *zip(*shown.values(), strict=True)]  # names as a row: headers are padded by two columns
    wide, narrow = (tabulate(table, tablefmt=form, disable_numparse=True, colalign=sides) for form in ("plain", NARROW))
    table = wide if max(map(len, wide.splitlines())) <= WIDTH else narrow
    said.append("means, 95 % intervals over images")
    about = [line for text in (title, "; ".join(said)) for line in textwrap.wrap(text, WIDTH)]
    return ["", *about, *table.splitlines()]


def number(value: object, places: int) -> str:
    """A float with so many digits behind the point and never as "-0.000", nothing for a missing one, else its text."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    return f"{value:z.{places}f}" if isinstance(value, float) else str(value)
