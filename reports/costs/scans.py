"""The networks with mamba_ssm's scan beside the same networks with this project's, launched alike, in one sweep."""

import pandas as pd

from reports.costs import frames
from reports.pages.profile import figure
from reports.tables.blocks.block import Block, Cell

HEADER = ("network", "input", "mamba_ssm's scan, fp32 eager", "MiB", "ours, fp32 eager", "tf32x3 eager", "tf32x3 graph")
HEADER = (*HEADER, "MiB of ours", "eager in fp32, times as fast")
SAME = ["subject", "pixels", "source"]
OURS = (("fp32", "eager"), ("tf32x3", "eager"), ("tf32x3", "graph"))


def table() -> list[Block]:
    """A row per network and size that was timed with mamba_ssm's scan, a block per machine."""
    frame = frames.timed(every=True)
    frame = frame[(frame["mode"] == "inference") & (frame["batch"] == 1) & (frame["task"] == "sr-x2")]
    blocks = []
    for machine, part in frame.groupby("machine", sort=False):
        rows, theirs = [], part[part["backend"] == "mamba_ssm"]
        for row in theirs.sort_values(["subject", "pixels"], ascending=[False, True]).to_dict("records"):
            same = (part[SAME] == pd.Series(row)[SAME]).all(axis=1)
            found = [_one(part[same & (part["backend"] == "triton")], *how) for how in OURS]
            mib = next((ours["mib"] for ours in found if ours), None)
            texts = [frames.name(row["subject"]), f"{row['height']}x{row['width']}", _ms(row), figure(row["mib"])]
            texts += [*map(_ms, found), figure(mib)]
            noisy = "~" if found[0] and (found[0]["noise"] or row["noise"]) else ""
            texts += [f"{row['ms'] / found[0]['ms']:.2f}{noisy}" if found[0] else ""]
            rows.append([Cell(text, source=row["source"]) for text in texts])
        if rows:
            blocks.append(Block(f"{machine}, ms:", HEADER, rows, [frames.files(row[0].source for row in rows)], (0, 1)))
    return blocks


def _one(own: pd.DataFrame, precision: str, launch: str) -> dict | None:
    found = own[(own["precision"] == precision) & (own["launch"] == launch)].to_dict("records")
    return found[0] if found else None


def _ms(row: dict | None) -> str:
    return figure(row["ms"]) + ("~" if row["noise"] else "") if row else ""
