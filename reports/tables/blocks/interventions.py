"""What trained weights use: a block per question, changes down, datasets across."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from reports.statistics import verdicts
from reports.tables.blocks.block import Block, Cell
from reports.tables.blocks.wording import number, sentence


def changes(origin: str, task: str, part: pd.DataFrame) -> Iterator[Block]:
    """A block per question: changes down, datasets across, the unchanged network's PSNR first."""
    sets = tuple(dict.fromkeys(part["dataset"]))
    base = part[part["verdict"] == verdicts.BASE].set_index("dataset")["measured"].to_dict()
    notes = [sentence(text) for text in dict.fromkeys(part.loc[part["verdict"] == verdicts.BASE, "evidence"])]
    notes += [f"Protocol: {text}." for text in dict.fromkeys(part["protocol"])]
    notes.append(
        "Differences in dB with their 95 % interval over pictures, at the seeds that both have; verdicts after Holm's "
        "correction for a question and a set. The number behind it is how many pictures are worse. "
        f"* is '{verdicts.COSTS}' or '{verdicts.GAINS}', = is '{verdicts.NO_EFFECT}', no mark is "
        f"'{verdicts.INCONCLUSIVE}'."
    )
    for question, own in part[part["study"] != "unchanged"].groupby("study", sort=False):
        heading = f"{part['model'].iloc[0]}, {task}, {origin.partition(' (')[0]}: {question}"  # notes name the file
        block = Block(heading, ("change", *sets), notes=notes)
        block.rows.append([Cell("unchanged"), *(Cell(number(base.get(name), "psnr")) for name in sets)])
        for name, cells in own.groupby("method", sort=False):
            by_set = {row["dataset"]: row for row in cells.to_dict("records")}
            block.rows.append([Cell(name), *(Cell(_judged(by_set.get(each))) for each in sets)])
        yield block
        notes = []


def _judged(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["difference"] is None:
        return row["verdict"]
    marks = {verdicts.NO_EFFECT: "=", verdicts.INCONCLUSIVE: "", verdicts.COSTS: "*", verdicts.GAINS: "*"}
    low, high = ("" if row[end] is None else number(row[end], "psnr", signed=True) for end in ("low", "high"))
    change = number(row["difference"], "psnr", signed=True) + (f" [{low}, {high}]" if low else "")
    return f"{change} {row['worse']} {marks.get(row['verdict'], row['verdict'])}".rstrip()
