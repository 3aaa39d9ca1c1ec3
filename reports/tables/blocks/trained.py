"""What was trained here: a grid of variants per family and dataset."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from reports.statistics import verdicts
from reports.tables.blocks.block import Block, Cell
from reports.tables.blocks.ranks import ranked
from reports.tables.blocks.wording import (
    DIGITS,
    LEGEND,
    SCORES,
    SIGNS,
    change,
    detectable,
    measured_source,
    number,
    published_source,
    sentence,
)

ALIKE = f"±{verdicts.EQUIVALENCE}"
VARIANTS = ("variant", "PSNR", "SSIM", "vs base, 95 %", "paper", "MDE", ALIKE, "verdict")


def family(task: str, dataset: str, part: pd.DataFrame) -> Block:
    budget, setting = part[["budget", "setting"]].iloc[0]
    heading = f"{task} on {dataset}, {budget} budget{f' ({setting})' if setting else ''}"
    block = Block(heading, VARIANTS, of=", ".join(filter(None, (setting, task, dataset))))
    variants = {key: {row["metric"]: row for row in rows.to_dict("records")} for key, rows in _by_variant(part)}
    marks = {
        metric: ranked({key: rows[metric]["measured"] for key, rows in variants.items()}, n)
        for metric, n in DIGITS.items()
    }
    for key, rows in variants.items():
        psnr = rows["psnr"]
        cells = [Cell(psnr["method"])]
        for name in SCORES:
            text, own = number(rows[name]["measured"], name), measured_source(rows[name])
            cells.append(Cell(text, marks[name].get(key, ""), own))
        ours = measured_source(psnr)
        cells += [Cell(change(psnr), source=ours), Cell(psnr["published"] or "", source=published_source(psnr))]
        alike = Cell("yes" if verdicts.equivalent((psnr["low"], psnr["high"])) else "")
        block.rows.append([*cells, Cell(detectable(psnr["mde"]), source=ours), alike, Cell(psnr["verdict"])])
    _drop_empty(block, ("paper", "MDE", ALIKE))
    counts = {rows["params"]["method"]: number(rows["params"]["measured"], "params") for rows in variants.values()}
    block.notes.append("Parameters: " + "; ".join(f"{name}: {count or '-'}" for name, count in counts.items()) + ".")
    block.notes += [
        f"{rows['psnr']['method']}: {rows['psnr']['note']}." for rows in variants.values() if rows["psnr"]["note"]
    ]
    scored = part[part["metric"].isin(SCORES)]
    block.notes += [sentence(text) for text in dict.fromkeys(scored["evidence"].dropna())]
    block.notes += [f"Protocol: {text}." for text in dict.fromkeys(filter(None, part["protocol"]))][:1]
    block.notes += _how(part)
    return block


def _by_variant(part: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    yield from part.groupby(["method", "model", "overrides"], sort=False)


def _how(part: pd.DataFrame) -> Iterator[str]:
    """What the columns of a family's block mean."""
    psnr = part[part["metric"] == "psnr"]
    pooled = psnr["df"].dropna()
    if len(pooled):
        yield (
            "95 %: paired by seed, the variance that the family shares, with "
            f"{pooled.iloc[0]:.0f} degrees of freedom; verdicts after Holm's correction for {len(pooled)}."
        )
    if psnr["mde"].notna().any():
        yield "MDE: the difference that these seeds would find with power 0.8 after that correction."
    if any(map(verdicts.equivalent, zip(psnr["low"], psnr["high"], strict=True))):
        yield f"{ALIKE}: equivalent to the base, for the whole interval lies within {ALIKE} dB."
    if psnr["published"].notna().any():
        signs = dict.fromkeys(SIGNS.get(row, "") for row in psnr["provenance"].dropna())
        legend = "".join(f" {sign} {LEGEND[sign]}." for sign in signs if sign)
        yield f"Paper: its difference between the same two networks.{legend}"
    if part["budget"].iloc[0] != "paper":
        yield "Only the differences mean something: no score here is comparable with the paper's."


def _drop_empty(block: Block, names: tuple[str, ...]) -> None:
    """Takes out those columns of `names` in which no row has anything."""
    kept = [i for i, name in enumerate(block.header) if name not in names or any(row[i].text for row in block.rows)]
    block.header = tuple(block.header[i] for i in kept)
    block.rows = [[row[i] for i in kept] for row in block.rows]
    block.left = (0, len(kept) - 1)
