"""Words of verdicts that several rules of claims share, and how pieces of text are listed."""

from collections.abc import Iterable

from reports.tables.blocks.block import Cell

CONFIRMED, CONTRADICTED, OPEN, NOT_RUN = "confirmed", "contradicted", "open", "not run"


def listed(parts: Iterable[list[Cell]], between: str = "; ") -> list[Cell]:
    """The pieces of each part, with `between` in between."""
    pieces = [piece for part in parts for piece in (Cell(between), *part)]
    return pieces[1:]
