"""Markdown refilled for a terminal that is narrower than the tables are written for."""

import re
import shutil
import textwrap
from collections.abc import Iterator
from itertools import groupby

_BAR = re.compile(r"(?<!\\)\|")


def columns() -> int:
    """Columns of the terminal (of COLUMNS, where that is set); 0 where there is none, as in a pipe."""
    return shutil.get_terminal_size((0, 0)).columns


def fit(text: str, width: int) -> str:
    """`text` in lines of at most `width` characters, unchanged where it has none longer or `width` is 0.

    Grids are cut between columns, with the first column in every part, and paragraphs are filled anew. A single column
    that is wider stays as it is.
    """
    if not width or all(len(line) <= width for line in text.splitlines()):
        return text
    lines: list[str] = []
    for is_grid, part in groupby(text.splitlines(), key=lambda line: line.startswith("|")):
        lines += (_cut if is_grid else _filled)(list(part), width)
    return "\n".join(lines) + "\n" * text.endswith("\n")


def _cut(lines: list[str], width: int) -> Iterator[str]:
    first, *others = zip(*(_BAR.split(line)[1:-1] for line in lines), strict=True)
    parts = [[first]]
    for column in others:
        used = sum(len(each[0]) + 1 for each in (*parts[-1], column)) + 1
        if used > width and len(parts[-1]) > 1:
            parts.append([first])
        parts[-1].append(column)
    for number, part in enumerate(parts):
        yield from [""] * (number > 0)
        yield from (f"|{'|'.join(cells)}|" for cells in zip(*part, strict=True))


def _filled(lines: list[str], width: int) -> Iterator[str]:
    paragraph: list[str] = []
    for line in lines:
        apart = not line or line.startswith("#")
        if paragraph and (apart or line.startswith("- ") or paragraph[-1].endswith("  ")):
            yield _wrapped(paragraph, width)
            paragraph = []
        if apart:
            yield line
        else:
            paragraph.append(line)
    if paragraph:
        yield _wrapped(paragraph, width)


def _wrapped(paragraph: list[str], width: int) -> str:
    indent = "  " * paragraph[0].startswith("- ")
    ending = "  " * paragraph[-1].endswith("  ")  # a line break of Markdown
    text = " ".join(line.strip() for line in paragraph)
    return textwrap.fill(text, width - len(ending), subsequent_indent=indent) + ending
