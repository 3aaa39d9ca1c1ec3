"""What is not one image of x2: training steps, batches that fill a machine, and the efficiency challenge's protocol."""

from typing import Any

import pandas as pd

from reports.costs import frames
from reports.pages.profile import figure, span
from reports.tables.blocks.block import Block, Cell, filled

STEPS = ("network", "precision", "batch", "patch", "ms", "p10, p90", "MiB", "images/s")
BATCHES = ("network", "precision", "size", "alone, ms", "batch", "ms an image", "times as fast", "MiB alone", "MiB")
CHALLENGE = ("network", "precision", "params", "GMAC", "as the paper", "ms", "p10, p90", "MiB")
CHALLENGE = (*CHALLENGE, "set", "pictures", "ms a picture", "of passes", "MiB of the largest")
X4 = "sr-x4"


def steps() -> list[Block]:
    """A row per network and precision whose training step was timed, the fastest first."""
    frame = frames.fastest(frames.timed())
    blocks = []
    for machine, part in frame.groupby("machine", sort=False):
        rows = []
        for row in part[part["mode"] == "training"].sort_values("ms").to_dict("records"):
            texts = [frames.name(row["subject"]), f"{row['precision']} {row['launch']}", str(row["batch"])]
            texts += [f"{row['height']}x{row['width']}", _ms(row), span(row["p10_ms"], row["p90_ms"])]
            texts += [figure(row["mib"]), figure(1e3 * row["batch"] / row["ms"], 3)]
            rows.append([Cell(text, source=row["source"]) for text in texts])
        blocks += _block(f"{machine}:", STEPS, rows, 2)
    return blocks


def batches() -> list[Block]:
    """Inference on many images at once beside one alone of the same size."""
    frame = frames.fastest(frames.timed())
    frame = frame[(frame["mode"] == "inference") & (frame["backend"] != "mamba_ssm")]
    blocks = []
    for machine, part in frame.groupby("machine", sort=False):
        rows = []
        for row in part[part["batch"] > 1].to_dict("records"):
            if (alone := _same(part, row, batch=1)) is None:
                continue
            each = row["ms"] / row["batch"]
            texts = [frames.name(row["subject"]), row["precision"], f"{row['height']}x{row['width']}", _ms(alone)]
            texts += [str(row["batch"]), figure(each) + ("~" if row["noise"] else ""), f"{alone['ms'] / each:.2f}"]
            texts += [figure(alone["mib"]), figure(row["mib"])]
            rows.append([Cell(text, source=row["source"]) for text in texts])
        blocks += _block(f"{machine}:", BATCHES, rows, 3)
    return blocks


def challenge() -> list[Block]:
    """x4 as the efficiency challenge has it: an input of 256x256, and the mean over a set's whole pictures."""
    frame = frames.timed()
    frame = frame[(frame["mode"] == "inference") & (frame["batch"] == 1) & (frame["task"] == X4)]
    counts, blocks = frames.counted(), []
    for machine, part in frame.groupby("machine", sort=False):
        rows = []
        for row in part[part["pictures"] == ""].sort_values("ms").to_dict("records"):
            count = counts.get((row["subject"], X4, row["height"], row["width"]), {})
            whole = part[(part["pictures"] != "") & (part["subject"] == row["subject"])].to_dict("records")
            texts = [frames.name(row["subject"]), f"{row['precision']} {row['launch']}", f"{row['params']:,.0f}"]
            texts += [figure(count[name] / 1e9) if count.get(name) else "" for name in ("macs", "macs_paper")]
            texts += [_ms(row), span(row["p10_ms"], row["p90_ms"]), figure(row["mib"])]
            for one in whole[:1]:
                texts += [one["pictures"], str(one["of_pictures"]), _ms(one), span(one["p10_ms"], one["p90_ms"])]
                texts += [figure(one["mib"])]
            texts += [""] * (len(CHALLENGE) - len(texts))
            rows.append([Cell(text, source=row["source"]) for text in texts])
        blocks += _block(f"{machine}, input 256x256:", CHALLENGE, rows, 2)
    return blocks


def _same(part: pd.DataFrame, row: dict[str, Any], **changed: Any) -> dict[str, Any] | None:
    """The point of a machine that differs from another in `changed` alone; its launch may be another."""
    wanted = {name: row[name] for name in frames.KEEP if name != "launch"} | changed
    found = part[(part[list(wanted)] == pd.Series(wanted)).all(axis=1)].to_dict("records")
    return found[0] if found else None


def _ms(row: dict[str, Any]) -> str:
    return figure(row["ms"]) + ("~" if row["noise"] else "")


def _block(heading: str, header: tuple[str, ...], rows: list[list[Cell]], left: int) -> list[Block]:
    if not rows:
        return []
    notes = [frames.files(row[0].source for row in rows)]
    if any(cell.text.endswith("~") for row in rows for cell in row):
        notes.insert(0, "~: the machine was not quiet; the file says in what way.")
    return [Block(heading, *filled(header, rows), notes, tuple(range(left)))]
