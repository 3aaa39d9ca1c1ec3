"""A plain table: a row per number, a column for whatever its rows say."""

from typing import Any

import pandas as pd

from reports.tables.blocks.block import Block, Cell
from reports.tables.blocks.wording import DIGITS, measured_source, published_source, sentence


def plain(frame: pd.DataFrame) -> Block:
    said = [name for name in frame.columns.drop(["table", "kind"]) if frame[name].notna().any()]
    notes = []
    if "evidence" in said and frame["evidence"].nunique() == 1:  # said once, below
        said.remove("evidence")
        notes = [sentence(frame["evidence"].iloc[0])]
    rows = [[_said(row, name) for name in said] for row in frame.to_dict("records")]
    words = tuple(index for index, name in enumerate(said) if not any(isinstance(v, float | int) for v in frame[name]))
    return Block("", tuple(said), rows, notes, left=words)


def _said(row: dict[str, Any], name: str) -> Cell:
    if name == "published":
        return Cell(_text(row[name], row["metric"]), source=published_source(row))
    origin = measured_source(row) if isinstance(row[name], float | int) else ""
    return Cell(_text(row[name], row["metric"]), source=origin)


def _text(value: Any, metric: str) -> str:
    if isinstance(value, float):
        return f"{value:.{DIGITS.get(metric, 3)}f}"
    return "" if value is None else str(value)
