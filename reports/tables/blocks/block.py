"""Grids of text with their ranks, whatever the format they are shown in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Cell:
    """Text of one cell, how it ranks in its column, and where its number comes from."""

    text: str = ""
    mark: Literal["", "best", "second"] = ""
    source: str = ""


@dataclass
class Block:
    """A grid under a heading, with notes below. The columns numbered in `left` are aligned left, the others right.

    of: whose numbers these are, where other blocks say the same of others: "MambaIRv2-light, sr-x2".
    """

    heading: str
    header: tuple[str, ...] = ()
    rows: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left: tuple[int, ...] = (0,)
    of: str = ""


def filled(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> tuple[tuple[str, ...], list[list[Cell]]]:
    """The columns that have a text in any row."""
    kept = [i for i in range(len(header)) if any(row[i].text for row in rows)]
    return tuple(header[i] for i in kept), [[row[i] for i in kept] for row in rows]
