"""The report as one HTML file that loads nothing: claims, then sections of charts and tables.

What the indexes of tables and figures name is on the page; SECTIONS say where, and what they do not name comes under
the last of them. Every text is escaped by the template; what a script reads is JSON in which no tag can begin.
"""

import base64
import io
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from reports.charts import chart as charts
from reports.claims import Judged
from reports.costs import tables as efficiency
from reports.figures import index as figures
from reports.figures import style
from reports.pages import assets, performance, pictures
from reports.pages.contents import Contents
from reports.tables import index
from reports.tables import render as render_tables
from reports.tables.blocks import blocks
from reports.tables.blocks.block import Block, Cell
from results import measured
from results.evidence import Evidence
from results.records import StoreError

TEMPLATES = Path(__file__).parent / "templates"
RUN = "python runner.py"
_DATED = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
HEAVY = 200_000  # bytes of a figure as SVG
LONG = 40  # characters: such a cell may break its lines


@dataclass(frozen=True)
class Section:
    """A part of the page. figures, tables: names in the indexes, in order. kinds: of tables that stand here unnamed."""

    id: str
    title: str
    intro: str
    figures: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


SECTIONS = (
    Section(
        *("scores", "Published and measured"),
        "Scores and counts of the paper's tables beside those of this project. A score is reproduced within 0.02 dB.",
        *(("scores",), ("table3", "table4", "table6", "table7"), ("paper",)),
    ),
    Section(
        *("ablations", "Ablations"),
        "Variants trained here against the base of their family, paired by seed. A reduced budget judges differences, "
        "never the paper's scores.",
        ("forest",),
        ("reduced", "ablation-components", "ablation-prompt", "scan-directions", "tableA2"),
        ("trained",),
    ),
    Section(
        *("training", "On the way"),
        "How differences and scores move while networks are trained.",
        ("way", "curve", "losses"),
    ),
    Section(
        *("protocol", "What the protocol is worth"),
        "The same weights under other test protocols than the official one, paired over pictures.",
        *(("protocol",), ("sensitivity",), ("sensitivity",)),
    ),
    Section(
        *("cost", "What it costs"),
        "Times are stored only for results that agreed with the plain network in the same run.",
        *(("pareto", "resolution"), ("complexity", "table5", "tableA1")),
    ),
    Section(
        *("analyses", "Interventions and analyses"), "What the networks do inside, and what else was asked of them."
    ),
)


def render(contents: Contents) -> str:
    """The page. Its scripts are admitted by their hashes alone."""
    sources, specs = _Sources(), {}
    sections = list(_sections(contents, sources, specs))
    sliders = pictures.load(contents.evidence)
    scripts = assets.scripts(bool(sliders))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=True,
    )
    environment.filters |= {"prose": prose, "minus": render_tables.minus, "lines": _lines, "json": _json}
    context = {
        "contents": contents,
        "groups": [
            {"title": title, "id": name, "rows": [_claim(one, sources) for one in judged]}
            for name, title, judged in (
                ("claims", "What the paper claims", contents.claims),
                ("unsaid", "What it leaves unsaid", contents.beside),
                ("questions", "What it asks next", contents.questions),
            )
        ],
        "tally": _tally(contents),
        "headlines": [
            {
                "key": {"text": one.key.text, "source": sources.number(one.key.source)},
                "words": one.headline,
                "level": one.level,
            }
            for one in (*contents.claims, *contents.beside)
            if one.headline
        ],
        "sections": [section for section in sections if section["parts"] or section["absent"]],
        "own": [_table(name, title, [block], sources) for name, title, block in _own(contents) if block],
        "machines": _table("machines", "Machines", [_machines(contents.evidence)], sources),
        "sliders": sliders,
        "problems": contents.failures,
        "specs": specs,
        "palettes": {"light": charts.LIGHT, "dark": charts.DARK},
        "theme": charts.theme({name: f"var(--{name})" for name in charts.LIGHT}),
        "sources": sources.texts,  # complete by now: every part above has been made
        "style": Markup(assets.style()),
        "scripts": [Markup(text) for text in scripts],
        "policy": assets.policy(scripts),
    }
    return environment.get_template("report.html.j2").render(context)


class _Sources:
    """Where numbers come from: every text once, and its number for the cells that share it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._known: dict[str, int] = {}

    def number(self, text: str) -> int | None:
        if not text:
            return None
        if text not in self._known:
            self._known[text] = len(self.texts)
            self.texts.append(text)
        return self._known[text]


# --- parts -----------------------------------------------------------------------------------------------------------


def _sections(contents: Contents, sources: _Sources, specs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    named_figures = {name for section in SECTIONS for name in section.figures}
    others = [name for name in figures.FIGURES if name not in named_figures]
    placed, drawn = _placed(contents.frames), itertools.count()
    for section in SECTIONS:
        last = section is SECTIONS[-1]
        names = [name for name in (*section.figures, *(others if last else ())) if name in figures.FIGURES]
        parts = []
        for name in names:
            contents.told("figures", next(drawn), len(figures.FIGURES), name)
            parts.append(_figure(name, contents.evidence, sources, specs))
        for name in placed[section.id]:
            parts.append(_table(name, index.caption(name), list(blocks(contents.frames[name])), sources))
        if section.id == "cost":
            parts += _costs(sources)
        shown = [part for part in parts if "missing" not in part]
        told = {"id": section.id, "title": section.title, "intro": section.intro}
        yield told | {"parts": shown, "absent": [part for part in parts if "missing" in part]}


def _placed(frames: dict[str, pd.DataFrame]) -> dict[str, list[str]]:
    """Section -> its tables: those it names, then those of its kinds that none names; the last section has the rest."""
    found: dict[str, list[str]] = {
        section.id: [name for name in section.tables if name in frames] for section in SECTIONS
    }
    named = {name for names in found.values() for name in names}
    by_kind = {kind: section.id for section in SECTIONS for kind in section.kinds}
    for name, frame in frames.items():
        if name not in named and len(frame):
            found[by_kind.get(frame["kind"].iloc[0], SECTIONS[-1].id)].append(name)
    return found


def _figure(name: str, evidence: Evidence, sources: _Sources, specs: dict[str, Any]) -> dict[str, Any]:
    """A chart, a picture, or why there is none."""
    figure = figures.FIGURES[name]
    part = {"kind": "figure", "id": f"figure-{name}", "title": figure.caption, "command": f"{RUN} figures {name}"}
    try:
        if figure.chart is None:
            picture = _picture(lambda path: figure.draw(path, evidence), figure.raster)
            return part | {"picture": picture, "summary": figure.caption}
        chart = figure.chart(evidence)
    except (ValueError, StoreError, FileNotFoundError) as error:  # there is nothing that can be drawn
        return part | {"missing": " ".join(str(error).split())}
    specs[part["id"]] = chart.spec()
    header = tuple(map(str, chart.data.columns))
    rows = [[Cell("" if pd.isna(value) else str(value)) for value in row] for row in chart.data.itertuples(index=False)]
    table = _block(f"{part['id']}-data", Block("", header, rows), sources, f"Numbers: {figure.caption}")
    return part | {"summary": chart.summary, "data": table}


def _picture(draw: Callable[[Path], None], raster: bool) -> str:
    """A figure that draws a file, in a data URI: an image runs no script and loads nothing. SVG, or PNG where that is
    HEAVY; PNG at once if `raster`."""
    import matplotlib

    with tempfile.TemporaryDirectory() as folder, matplotlib.rc_context({"svg.hashsalt": "report"}):
        path, drawn, kind = Path(folder) / "figure.svg", b"", "svg+xml"
        if not raster:
            draw(path)
            drawn = _DATED.sub("", path.read_text()).encode()  # the same store, the same bytes
        if raster or len(drawn) > HEAVY:
            path = path.with_suffix(".png")
            draw(path)
            drawn, kind = style.few_colours(path), "png"
    return f"data:image/{kind};base64,{base64.b64encode(drawn).decode()}"


def _costs(sources: _Sources) -> Iterator[dict[str, Any]]:
    """The tables of docs/efficiency.md and docs/performance.md."""
    for document, page in (("efficiency", efficiency), ("performance", performance)):
        for name, make in page.blocks().items():
            if found := make():
                table = _table(name, page.CAPTIONS[name], found, sources)
                yield table | {"command": None, "note": f"In docs/{document}.md: `{RUN} tables --documents`."}


def _table(name: str, caption: str, made: list[Block], sources: _Sources) -> dict[str, Any]:
    """A table of the index. What is only printed by the paper folds up below what was measured."""
    ordered = sorted(_joined(made), key=lambda block: _is_only_published(block.heading))
    shown = [_block(f"table-{name}-{number}", block, sources, caption) for number, block in enumerate(ordered, 1)]
    folded = [block for block in shown if _is_only_published(block["heading"])]
    return {
        **{"kind": "table", "id": f"table-{name}", "name": name, "title": caption, "command": f"{RUN} tables {name}"},
        **{"blocks": [block for block in shown if block not in folded], "folded": folded, "note": None},
    }


def _joined(made: list[Block]) -> list[Block]:
    """Blocks that say the same of others as one, so that they are sorted together; the rest as they are."""
    groups: dict[tuple, list[Block]] = {}
    for number, block in enumerate(made):
        groups.setdefault((block.header, block.left) if block.of else number, []).append(block)
    result = []
    for group in groups.values():
        if len(group) == 1:
            result += group
            continue
        header = ("of", *group[0].header)
        rows = [[Cell(block.of), *row] for block in group for row in block.rows]
        said = [f"{block.of}: {note}" for block in group for note in block.notes]
        shared = [note for note in dict.fromkeys(group[0].notes) if all(note in block.notes for block in group)]
        own = [line for line in said if line.partition(": ")[2] not in shared]
        left = (0, *(place + 1 for place in group[0].left))
        heading = group[0].heading.removeprefix(f"{group[0].of}: ") if group[0].heading.startswith(group[0].of) else ""
        heading = heading[:1].upper() + heading[1:]
        result.append(Block(heading, header, rows, [*shared, *own], left))
    return result


def _is_only_published(heading: str) -> bool:
    return bool(re.search(r", as (published|computed): ", heading))


def _block(name: str, block: Block, sources: _Sources, label: str) -> dict[str, Any]:
    left = [i in block.left or not any(_is_number(row[i].text) for row in block.rows) for i in range(len(block.header))]
    rows = [
        [{"text": cell.text, "style": style, "source": number} for cell, style, number in _styled(row, left, sources)]
        for row in block.rows
    ]
    told = {"id": name, "heading": block.heading, "label": label, "header": block.header, "left": left}
    return told | {"rows": rows, "notes": block.notes}


def _styled(row: list[Cell], left: list[bool], sources: _Sources) -> Iterator[tuple[Cell, str | None, int | None]]:
    """Cells with their classes and the number of their source."""
    for cell, is_left in zip(row, left, strict=True):
        number = sources.number(cell.source)
        names = ("left" * is_left, "long" * (len(cell.text) > LONG), cell.mark, "n" * (number is not None))
        yield cell, " ".join(filter(None, names)) or None, number


def _is_number(text: str) -> bool:
    return bool(re.match(r"[\[+-]?\d", text))


def _claim(judged: Judged, sources: _Sources) -> dict[str, Any]:
    pieces = {
        name: [{"text": cell.text, "source": sources.number(cell.source)} for cell in getattr(judged, name)]
        for name in ("said", "found")
    }
    told = {name: getattr(judged, name) for name in ("claim", "where", "verdict", "level", "evidence", "tables")}
    return told | pieces


def _headline(judged: Judged, sources: _Sources) -> dict[str, Any]:
    key = {"text": judged.key.text, "source": sources.number(judged.key.source)}
    return {"key": key, "words": judged.headline, "level": judged.level}


def _tally(contents: Contents) -> list[dict[str, Any]]:
    """How many claims hold, fail, are open or not run."""
    words = {"holds": "hold where run", "fails": "differ", "open": "open", "absent": "not run"}
    counts = {level: sum(one.level == level for one in contents.claims) for level in words}
    return [{"level": level, "count": counts[level], "word": word} for level, word in words.items()]


def _own(contents: Contents) -> Iterator[tuple[str, str, Block | None]]:
    notes = [f"{name}: {text}." for name, text in (*contents.protocols, *contents.machines)]
    for name, title, block in (
        ("cells", "Trained cells of this store", contents.cells),
        ("records", "Scores of given weights in this store", contents.evaluations),
    ):
        if block is not None:
            block.notes = notes
        yield name, title, block


def _machines(evidence: Evidence) -> Block:
    """Where everything shown was measured: scores, trainings and times by device and commit."""
    rows: dict[tuple, dict[str, Any]] = {}

    def add(what: str, device: str, how: str, commit: str, date: str, place: str) -> None:
        row = rows.setdefault((device, how, commit[:10], place), {"what": {}, "dates": set()})
        row["what"][what] = row["what"].get(what, 0) + 1
        row["dates"].add(date[:10])

    for what, frame in (("scores", evidence.evaluations), ("trained cells", evidence.cells)):
        for one in frame[frame["device"].notna()].to_dict("records"):
            place = "committed" if one["committed"] else "this store"
            how = f"{one['backend']}, {one['threads']} threads"
            add(what, one["device"], how, str(one["commit"]), str(one["finished"] or one.get("started")), place)
    for kind, what in (("profile", "profiles"), ("breakdown", "breakdowns")):
        for one in measured.profiles(kind=kind):
            there = one["environment"]
            versions = ", ".join(f"{name} {there['versions'].get(name)}" for name in ("torch", "triton"))
            add(what, there["device"], versions, there["commit"], there["started"], "committed")
    header = ("machine", "backend, threads or versions", "commit", "what", "measured", "where")
    cells = []
    for (device, how, commit, place), one in sorted(rows.items()):
        counts = ", ".join(f"{count} {what}" for what, count in one["what"].items())
        dates = " to ".join(dict.fromkeys((min(one["dates"]), max(one["dates"]))))
        cells.append([Cell(text) for text in (device, how, commit, counts, dates, place)])
    return Block("", header, cells, left=tuple(range(len(header))))


# --- text ------------------------------------------------------------------------------------------------------------


def prose(text: str) -> Markup:
    """Escaped text in which `commands` between backticks are set as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)  # a backtick of its own
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def _lines(notes: Iterable[str]) -> list[str]:
    """Notes line by line, without the dashes that make a list of them in Markdown."""
    return [line.removeprefix("- ") for note in notes for line in io.StringIO(note).read().splitlines() if line]


def _json(value: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
