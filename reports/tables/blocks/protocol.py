"""What the protocol is worth: settings down, datasets across."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from reports.tables.blocks.block import Block, Cell
from reports.tables.blocks.wording import measured_source, number, sentence
from reports.tables.sensitivity import IDENTICAL, OFFICIAL


def settings(origin: str, task: str, part: pd.DataFrame) -> Iterator[Block]:
    """Scores, then differences from the official protocol; settings down, datasets across."""
    sets = tuple(dict.fromkeys(part["dataset"]))
    rows = {name: own.set_index("dataset").to_dict("index") for name, own in part.groupby("method", sort=False)}
    model = part["model"].iloc[0]
    absent = dict.fromkeys(("measured", "difference", "low", "p", "verdict"))
    scores = Block(f"{model}, {task}: PSNR", ("setting", *sets), notes=[sentence(origin)])
    changes = Block(f"{model}, {task}: difference from the official protocol, 95 %", ("setting", *sets))
    for name, own in rows.items():
        cells = {each: own.get(each, absent) for each in sets}
        sources = {each: measured_source(row) if row["verdict"] else "" for each, row in cells.items()}
        texts = {each: number(cells[each]["measured"], "psnr") or "-" for each in sets}  # no contest: nothing is best
        scores.rows.append([Cell(name), *(Cell(text, source=sources[each]) for each, text in texts.items())])
        if any(row["difference"] is not None for row in cells.values()):
            moved = (Cell(_starred(row) or "-", source=sources[each]) for each, row in cells.items())
            changes.rows.append([Cell(name), *moved])
            if any(bounds := [_bounds(row) for row in cells.values()]):
                changes.rows.append([Cell("95 %"), *map(Cell, bounds)])
    for name, own in rows.items():
        for column, shown in (
            ("note", own),
            ("verdict", {k: row for k, row in own.items() if row["measured"] is None}),
        ):
            where: dict[str, list[str]] = {}
            for each, row in shown.items():
                if row[column]:
                    where.setdefault(row[column], []).append(each)
            said = [f"{text} ({', '.join(each)})" for text, each in where.items()]
            scores.notes += [f"{name}: {', '.join(said)}."] * bool(said)
    official = part[part["method"] == OFFICIAL]
    scores.notes += [f"Official protocol: {', '.join(dict.fromkeys(official['protocol']))}."]
    for evidence, own in official.dropna(subset="evidence").groupby("evidence", sort=False):
        scores.notes.append(f"{', '.join(dict.fromkeys(own['dataset']))}: {evidence.partition(', ')[2]}.")
    yield scores
    if changes.rows:
        changes.notes = [
            "Paired over the pictures of a set: at the Gumbel seeds that both have where both draw noise, else with "
            f"the mean of all official seeds. {IDENTICAL.capitalize()}: no score changed. * still below 0.05 after "
            "Holm's correction for the settings of a set.",
            "The interval (t, its skewness removed) is about pictures such as these; that the weights are one "
            "training's is not in it.",
            "SSIM: as CSV.",
        ]
        yield changes


def _starred(row: dict[str, Any]) -> str:
    if row["verdict"] == IDENTICAL:
        return IDENTICAL
    star = "*" if row["p"] is not None and row["p"] < 0.05 else ""
    return f"{number(row['difference'], 'psnr', signed=True)} {star}".rstrip()


def _bounds(row: dict[str, Any]) -> str:
    """Both ends of the interval: it lies further out on the side of the tail, so that no half width would do."""
    if row["low"] is None or row["verdict"] == IDENTICAL:
        return ""
    return ", ".join(number(row[end], "psnr", signed=True) for end in ("low", "high"))
