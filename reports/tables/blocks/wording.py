"""How numbers, their intervals and where they come from are written in every table."""

from typing import Any

import pandas as pd

DIGITS = {"psnr": 3, "ssim": 4}  # of measured scores
SCORES = tuple(DIGITS)
NAMES = {"psnr": "PSNR", "ssim": "SSIM", "params": "params", "macs": "MACs"}
SIGNS = {"secondary": "†", "computed": "‡"}
LEGEND = {"†": "a secondary source, not the paper itself", "‡": "computed by this project, not printed in the paper"}


def number(value: float | None, metric: str, signed: bool = False) -> str:
    """A measured value or difference as text; empty for None."""
    if value is None or pd.isna(value):
        return ""
    digits, unit, suffix = {"params": (0, 1, ""), "macs": (2, 1e9, "G"), "psnr": (3, 1, ""), "ssim": (4, 1, "")}[metric]
    text = f"{value / unit:{'+' if signed else ''},.{digits}f}"
    return (text if text.strip("+-0.,") else text.lstrip("+-")) + suffix  # a zero has no sign


def change(row: dict[str, Any]) -> str:
    """A difference with half its interval; with the number of seeds or images where there is none."""
    if row["difference"] is None:
        return ""
    half = row["interval"] if row["low"] is None else f"±{number((row['high'] - row['low']) / 2, row['metric'])}"
    return f"{number(row['difference'], row['metric'], signed=True)} {half}"


def detectable(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.3f}" if value < 10 else ">10"


def published_source(row: dict[str, Any]) -> str:
    """Where a published value was read, and how far it can be trusted."""
    if not row["published"]:
        return ""
    parts = (f"published, {row['provenance']}" if row["provenance"] else "published", row["source"], row["note"])
    return ": ".join(filter(None, parts[:2])) + (f" ({parts[2]})" if parts[2] else "")


def measured_source(row: dict[str, Any]) -> str:
    """What a measured value is of, on which machine and commit, by which protocol and command."""
    origin = row["evidence"] or (row["provenance"] if row["published"] is None else None)
    return "; ".join(filter(None, (origin, row["protocol"], row["made_by"])))


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
