"""A table's frame as Markdown (also for a terminal of 100 columns), LaTeX (booktabs) or CSV.

Markdown and LaTeX show the blocks of `reports.tables.blocks`: best in bold, second best in italics (underlined in
LaTeX). CSV holds the whole frame, provenance and all."""

import re
import textwrap
from collections.abc import Sequence

import pandas as pd

from reports.tables.blocks import blocks
from reports.tables.blocks.block import Block, Cell
from reports.tables.rows import TableError

WIDTH = 100

_MINUS = re.compile(r"(?<![\w.+-])-(?=\d)")
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"†": r"$^\dagger$", "‡": r"$^\ddagger$", "±": r"$\pm$", "\u2212": "$-$"},
}
_MARKDOWN_MARK = {"": "{}", "best": "**{}**", "second": "_{}_"}
_LATEX_MARK = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}


def render(frame: pd.DataFrame, form: str, caption: str) -> str:
    """The table in the format `form`: md, csv or tex. Raises TableError for another."""
    if form == "csv":
        return to_csv(frame)
    if form not in ("md", "tex"):
        raise TableError(f"unknown format {form!r}: choose from md, csv, tex")
    return (markdown if form == "md" else latex)(frame, caption)


def render_all(frames: Sequence[tuple[pd.DataFrame, str]], form: str, contents: bool = False) -> str:
    """Several tables with their captions in one format: one CSV with one header, else one table after the other.

    contents: begin with an index, a line per table with what it shows; a CSV has none.
    """
    if form != "csv":
        parts = [render(frame, form, caption) for frame, caption in frames]
        if contents:
            parts.insert(0, index([(_name(frame), caption) for frame, caption in frames], form))
        return "\n".join(parts)
    if len({tuple(frame.columns) for frame, _ in frames}) > 1:
        raise TableError("tables with different columns do not make one CSV")
    return "".join(to_csv(frame, header=number == 0) for number, (frame, _) in enumerate(frames))


def index(captions: Sequence[tuple[str, str]], form: str = "md") -> str:
    """A line per table, given as (name, caption), with what it shows."""
    lines = [f"{name}: {re.split('[:(]', caption)[0].strip()}" for name, caption in captions]
    lines.append("claims: every claim of the paper, judged by these tables; `runner.py tables claims` prints it")
    if form == "tex":
        return "".join(f"% {line}\n" for line in lines)
    return "\n".join(["## Tables", "", *(f"- {line}" for line in lines), ""])


def markdown(frame: pd.DataFrame, caption: str, level: int = 2) -> str:
    """The table as Markdown under a heading of `level`, its columns padded so that it reads without a renderer."""
    parts = [f"{'#' * level} {_name(frame)}", _wrap(caption)]
    for block in blocks(frame):
        parts.append(f"{'#' * (level + 1)} {block.heading}" if block.heading else "")
        if block.rows:
            parts.append(grid(block.header, block.rows, block.left))
        parts.append("  \n".join(_wrap(note) for note in block.notes))
    return "\n\n".join(filter(None, parts)) + "\n"


def _wrap(text: str) -> str:
    """Lines of at most WIDTH characters; an item of a list is indented below its dash."""
    lines = (textwrap.fill(line, WIDTH, subsequent_indent="  " * line.startswith("- ")) for line in text.splitlines())
    return "\n".join(lines)


def grid(header: tuple[str, ...], rows: list[list[Cell]], left: tuple[int, ...] = (0,)) -> str:
    """A Markdown table with padded columns; those numbered in `left` are aligned left, the others right."""
    texts = [[_MARKDOWN_MARK[cell.mark].format(cell.text.replace("|", r"\|")) for cell in row] for row in rows]
    widths = [max(3, len(name), *(len(row[i]) for row in texts)) for i, name in enumerate(header)]

    def line(row: list[str] | tuple[str, ...]) -> str:
        padded = (
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * width}" if i in left else f"{'-' * (width - 1)}:" for i, width in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, texts)])


def text_grid(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A grid of plain texts without the columns that are empty in every row; the first `left` are aligned left."""
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    cells = [[Cell(row[i]) for i in kept] for row in rows]
    return grid(tuple(header[i] for i in kept), cells, tuple(range(left)))


def latex(frame: pd.DataFrame, caption: str, fit: bool = False) -> str:
    """The table as LaTeX: a `table` environment with booktabs rules for every block, the notes in its caption.

    fit: shrink what is larger than a page to it (needs adjustbox).
    """
    parts = [rf"% {_name(frame)}; needs \usepackage{{booktabs}}"]
    for block in blocks(frame):
        title = " ".join(f"{text.rstrip('.')}." for text in (caption, block.heading, *block.notes) if text)
        if block.rows:
            parts.append(_latex_table(block, title, fit))
        else:
            parts.append("\n".join(f"% {line}" for line in title.splitlines()))
    return "\n\n".join(parts) + "\n"


def _latex_table(block: Block, title: str, fit: bool) -> str:
    body = [" & ".join(_LATEX_MARK[cell.mark].format(escape(cell.text)) for cell in row) + r" \\" for row in block.rows]
    columns = "".join("l" if i in block.left else "r" for i in range(len(block.header)))
    lines = [r"\begin{table}[!htbp]" if fit else r"\begin{table}", r"\centering", rf"\caption{{{escape(title)}}}"]
    lines += [r"\begin{adjustbox}{max width=\textwidth, max totalheight=0.8\textheight}"] if fit else []
    lines += [rf"\begin{{tabular}}{{{columns}}}"]
    lines += [r"\toprule", " & ".join(map(escape, block.header)) + r" \\", r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", *([r"\end{adjustbox}"] if fit else []), r"\end{table}"])


def minus(text: str) -> str:
    """The sign of negative numbers as it is typeset."""
    return _MINUS.sub("\u2212", text)


def escape(text: str) -> str:
    """Any text as LaTeX shows it."""
    text = minus(text)
    return "".join(_LATEX.get(character, character) for character in text)


def to_csv(frame: pd.DataFrame, header: bool = True) -> str:
    """Every column and row of the frame; what is not there is empty."""
    return frame.to_csv(index=False, header=header, lineterminator="\n")


def _name(frame: pd.DataFrame) -> str:
    return frame["table"].iloc[0]
