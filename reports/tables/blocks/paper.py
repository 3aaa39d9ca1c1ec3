"""A paper's table: the published values as the paper sets them, then published and measured for what is built here."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from reports.tables.blocks.block import Block, Cell
from reports.tables.blocks.ranks import ranked
from reports.tables.blocks.wording import (
    LEGEND,
    NAMES,
    SCORES,
    SIGNS,
    measured_source,
    number,
    published_source,
    sentence,
)
from results import published

COUNTED = ("quantity", "computed", "counted", "difference", "agreement", "verdict")  # nothing published among them
COMPARED = ("quantity", "published", "measured", "difference", "95 % interval", "verdict")


def as_the_paper(frame: pd.DataFrame) -> Iterator[Block]:
    others = frame[frame["setting"] != ""]
    frame = frame[frame["setting"] == ""]
    for task, part in frame.groupby("task", sort=False):
        for metrics in (("params", "macs", "psnr"), ("ssim",)):
            shown = part[part["metric"].isin(metrics)]
            if not shown.empty:
                yield _as_published(task, shown)
    own = frame[frame["model"] != ""]
    for (task, method), part in own.groupby(["task", "method"], sort=False):
        if part["measured"].notna().any():
            yield from _compared(f"{method}, {task}", part)
    yield from _not_measured(own)
    for (task, method, model, _), part in others.groupby(["task", "method", "model", "setting"], sort=False):
        yield _other_weights(f"{method}, {model}, {task}", part)


def _quantity(row: dict[str, Any]) -> str:
    return " ".join(filter(None, (row["dataset"], NAMES[row["metric"]], row["size"])))


# The table as the paper sets it: methods down, quantities across


def _as_published(task: str, part: pd.DataFrame) -> Block:
    grid: dict[str, dict[str, dict[str, Any]]] = {}
    for row in part.to_dict("records"):
        grid.setdefault(row["method"], {}).setdefault(_quantity(row), row)
    columns = list(dict.fromkeys(name for cells in grid.values() for name in cells))
    marks = {name: _published_marks({method: cells.get(name) for method, cells in grid.items()}) for name in columns}
    signs = dict.fromkeys(SIGNS.get(row["provenance"], "") for row in part.to_dict("records") if row["published"])
    alike = len(signs) == 1  # then one note says it
    rows = [
        [
            Cell(method),
            *(_published_cell(cells.get(name), not alike, marks[name].get(method, "")) for name in columns),
        ]
        for method, cells in grid.items()
    ]
    metric = next((NAMES[name] for name in (*SCORES, "macs") if (part["metric"] == name).any()), "")
    header = ("method", *_short(columns, metric))
    notes = [f"{'All: ' if alike else f'{sign} '}{LEGEND[sign]}." for sign in signs if sign]
    origin = "computed" if list(signs) == [SIGNS["computed"]] else "published"
    return Block(f"{task}, as {origin}: {metric}", header, rows, notes)


def _short(columns: list[str], metric: str) -> list[str]:
    """Names of columns without what the heading says, and MACs without a size where there is only one."""
    names = [name.removesuffix(f" {metric}") if metric in ("PSNR", "SSIM") else name for name in columns]
    counts = [name for name in names if name.startswith("MACs ")]
    if len(counts) == 1:
        return ["MACs" if name in counts else name for name in names]
    return [name.removeprefix("MACs ") for name in names]


def _published_cell(row: dict[str, Any] | None, signed: bool, mark: str) -> Cell:
    return Cell(_published_text(row, signed), mark, published_source(row) if row else "")


def _published_text(row: dict[str, Any] | None, signed: bool = True) -> str:
    if row is None:
        return ""
    return row["published"] + SIGNS.get(row["provenance"], "") * signed if row["published"] else "not found"


def _published_marks(column: dict[str, dict[str, Any] | None]) -> dict[str, str]:
    scores = {name: row for name, row in column.items() if row is not None and row["metric"] in SCORES}
    return ranked({name: published.number(row["published"]) for name, row in scores.items()})


# Published and measured


def _compared(heading: str, part: pd.DataFrame) -> Iterator[Block]:
    """A block per network that was scored: one, or as many as there are weights; counts stand in the first."""
    scored = part["measured"].notna() & part["metric"].isin(SCORES)
    origin = part["evidence"].where(scored).str.split(",").str[0]
    origins = list(origin.dropna().unique()) or [None]
    for index, name in enumerate(origins):
        rows = part[(origin == name) | (origin.isna() & (index == 0))]
        yield _compared_block(heading, rows)


def _compared_block(network: str, part: pd.DataFrame) -> Block:
    if (part["provenance"] == "computed").all():
        block = Block(f"{network}: computed and counted", COUNTED, left=(0, 5), of=network)
    else:
        block = Block(f"{network}: published and measured", COMPARED, left=(0, 5), of=network)
    blank: dict[str, dict[str, None]] = {}
    for row in part.to_dict("records"):
        if row["measured"] is None:
            blank.setdefault(row["verdict"], {})[row["dataset"] or _quantity(row)] = None
            continue
        ours = measured_source(row)
        texts = (number(row["difference"], row["metric"], signed=True), row["interval"] or "", row["verdict"])
        cells = [Cell(_quantity(row)), _published_cell(row, True, "")]
        cells.append(Cell(number(row["measured"], row["metric"]), source=ours))
        block.rows.append([*cells, *(Cell(text, source=ours) for text in texts[:2]), Cell(texts[2])])
    evidence = {text: rows["dataset"].unique() for text, rows in part.groupby("evidence", sort=False) if text}
    several = sum(any(sets) for sets in evidence.values()) > 1
    protocols = dict.fromkeys(text for text in part["protocol"].dropna() if text)
    for text, sets in evidence.items():
        if text != "counted":
            block.notes.append(sentence(f"{text} ({', '.join(sets)})" if several and any(sets) else text))
    block.notes += [f"Protocol: {text}." for text in protocols]
    block.notes += [f"Not there: {', '.join(names)} ({reason})." for reason, names in blank.items()]
    return block


def _other_weights(heading: str, part: pd.DataFrame) -> Block:
    """Scores of weights that are not the published ones, compared with nothing."""
    block = Block(f"{heading}: {part['setting'].iloc[0]}, not the published ones", ("quantity", "measured", "of"))
    for row in part.to_dict("records"):
        texts = (number(row["measured"], row["metric"]), row["interval"] or row["verdict"])
        block.rows.append([Cell(_quantity(row)), Cell(texts[0], source=measured_source(row)), Cell(texts[1])])
    for text, rows in part.groupby("evidence", sort=False):
        block.notes.append(sentence(f"{text} ({', '.join(rows['dataset'].unique())})"))
    block.notes += [sentence(text) for text in dict.fromkeys(part["note"]) if text]
    block.notes += [f"Protocol: {text}." for text in dict.fromkeys(part["protocol"])]
    official = " If they are the authors': `runner.py evaluate --as-official`."
    own = ", source " in part["setting"].iloc[0]  # a user's network
    block.notes.append(f"Compared with nothing published.{'' if own else official}")
    return block


def _not_measured(own: pd.DataFrame) -> Iterator[Block]:
    reasons: dict[str, dict[str, list[str]]] = {}
    for (task, method), part in own.groupby(["task", "method"], sort=False):
        if part["measured"].isna().all():
            for reason in part["verdict"].unique():
                reasons.setdefault(reason, {}).setdefault(method, []).append(task)
    if reasons:
        lines = []
        for reason, methods in reasons.items():
            lines.append(f"- {reason}: " + "; ".join(f"{name} ({', '.join(tasks)})" for name, tasks in methods.items()))
        yield Block("Not measured", notes=["\n".join(lines)])
