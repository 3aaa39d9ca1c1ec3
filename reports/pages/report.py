"""The report: one page of what a store holds and what is committed, as HTML, Markdown or LaTeX.

A pure function of them: the same store, the same bytes. It runs no network and loads nothing.
"""

import textwrap
from collections.abc import Callable
from pathlib import Path

import jinja2
import pandas as pd

from reports import claims
from reports.claims import Judged
from reports.pages.contents import Contents, Told, gather, untold
from reports.tables import index, render
from reports.tables.blocks.block import Cell
from reports.tables.rows import TableError
from results import records
from results.evidence import Evidence
from results.store import Store

TEMPLATES = Path(__file__).parent / "templates"


def write(store: Store, form: str = "html", told: Told = untold) -> Path:
    """Writes the report into the store's folder, as report.html, .md or .tex. told: of every step.

    Raises TableError for another form, StoreError when it cannot be written.
    """
    if form not in FORMS:
        raise TableError(f"unknown format {form!r}: choose from {', '.join(FORMS)}")
    path = store.root / f"report.{form}"
    records.write_bytes(path, FORMS[form](gather(store, told)).encode())
    return path


def markdown(contents: Contents) -> str:
    """The report for a repository: claims, failures, tables with something measured, cells, records, machines."""
    scored = {name: part for name, frame in contents.frames.items() if len(part := _scored_tasks(frame))}
    return _template("report.md.j2").render(
        contents=contents,
        claims=[claims_grid(own) for own in (contents.claims, contents.beside, contents.questions)],
        grid=lambda block: render.grid(block.header, block.rows, block.left),
        tables=[render.markdown(frame, index.caption(name)).rstrip() for name, frame in scored.items()],
        without=[name for name in contents.frames if name not in scored],
    )


def latex(contents: Contents) -> str:
    """The report as a document of booktabs tables: claims, then every table with something measured."""
    scored = {name: part for name, frame in contents.frames.items() if len(part := _scored_tasks(frame))}
    return _template("report.tex.j2").render(
        contents=contents,
        escape=render.escape,
        groups=[
            ("What the paper claims", contents.claims),
            ("What it leaves unsaid", contents.beside),
            ("What it asks next", contents.questions),
        ],
        text=text_of,
        tables=[render.latex(frame, index.caption(name), fit=True) for name, frame in scored.items()],
    )


def html(contents: Contents) -> str:
    from reports.pages import html as page  # here: it needs Altair

    return page.render(contents)


FORMS: dict[str, Callable[[Contents], str]] = {"html": html, "md": markdown, "tex": latex}


def claims_grid(judged: list[Judged]) -> str:
    header = ("claim", "paper", "found", "verdict", "evidence")
    rows = [[one.claim, text_of(one.said), text_of(one.found), one.verdict, one.evidence] for one in judged]
    return render.grid(header, [[Cell(text) for text in row] for row in rows], left=(0, 1, 2, 3, 4))


def claims_table(judged: list[Judged]) -> str:
    """One row a claim, for a document: its columns are not padded, since texts are long."""
    header = ("claim", "published", "trained weights without it", "trainings, pair by pair", "verdict", "command")
    rows = [header, ("---",) * len(header)]
    for one in judged:
        weights = one.weights if one.weights or one.trainings else one.found
        texts = (one.claim, text_of(one.said), text_of(weights), text_of(one.trainings), one.verdict)
        rows.append((*(text.replace("|", r"\|") for text in texts), f"`{one.command}`"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def claims_text(evidence: Evidence) -> list[str]:
    """Every claim and question with what was found, for a terminal."""
    lines = []
    for title, own in ((title, claims.judge(evidence, claims.load()[name])) for name, title in claims.SECTIONS.items()):
        lines += [f"## {title}", ""]
        for one in own:
            found = [] if one.weights or one.trainings else one.found
            parts = {"paper": one.said, "found": found, "weights": one.weights, "trainings": one.trainings}
            told = {name: text_of(cells) for name, cells in parts.items()}
            told |= {"verdict": one.verdict, "command": f"runner.py {one.command}"}
            lines.append(one.claim)
            for name, text in told.items():
                if text:
                    lines += textwrap.wrap(f"  {name:9} {text}", render.WIDTH, subsequent_indent=" " * 12)
            lines.append("")
    return lines


def text_of(cells: list[Cell]) -> str:
    return "".join(cell.text for cell in cells)


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown, and LaTeX that escapes what it is given
    )
    return environment.get_template(name)


def _scored_tasks(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of those tasks for which a score was measured."""
    scored = frame["measured"].notna() & frame["metric"].isin(("psnr", "ssim"))
    return frame[frame["task"].isin(frame[scored]["task"])]
