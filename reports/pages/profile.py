"""What `profile` measured, as Markdown tables for a terminal of 100 columns: candidates side by side, then cost against
resolution with the exponent of its growth. Pure functions of the rows that the command stores."""

import math
import operator
import textwrap
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from scipy import stats

from reports.statistics.intervals import LEVEL
from reports.tables.render import WIDTH, text_grid

Row = dict[str, Any]
Name = Callable[[Row], str]
STATUS = {
    "oom": "out of memory",
    "differs": "result differs",
    "unavailable": "cannot run",
    "unchecked": "not checked",
    "failed": "failed",
}
COMPARED = ("candidate", "ms", "p10, p90", "ratio", "95 %", "MiB", "pool MiB", "first s")
SCANNED = (*COMPARED, "error")
SPENT = ("candidate", "input", "ms", "us/pixel", "images/s", "MP/s out", "MiB", "KiB/pixel", "GMAC", "GMAC/s")
GROWTH = ("candidate", "sizes", "time", "95 %", "memory", "95 %")


def markdown(result: dict[str, Any]) -> str:
    """All tables of the result of `profile`: {"rows": [...], "environment": {...}}."""
    rows, environment = result["rows"], result["environment"]
    threads = f", {environment['threads']} threads" if environment["device_type"] == "cpu" else ""
    commit = environment["commit"] or "unknown"
    commit = commit[:10] + ("+ (with changes)" if commit.endswith("+") else "")
    versions = f"PyTorch {environment['versions']['torch']}, commit {commit}"
    common = [rows[0]["task"], f"{rows[0]['routing']} routing", _common(rows)] if rows else ["the scan"]
    measured = f"Measured on {environment['device']}{threads}; {versions}; {environment['started']}."
    parts = [wrap(f"{', '.join(filter(None, common))}. {measured}"), *scans(result["operators"])]
    return "\n\n".join(filter(None, [*parts, *(networks(rows) if rows else ())]))


def scans(rows: Sequence[Row]) -> list[str]:
    """A table for each case of the scan, with what could not run below it."""
    parts = []
    shape = operator.itemgetter("mode", "batch", "channels", "states", "length")
    for (mode, batch, channels, states, length), group in groupby(rows, shape):
        cells, notes = [], []
        for row in group:
            label = f"{row['backend']} {row['launch']}"
            if row["status"] != "ok":
                cells.append([label, STATUS[row["status"]], *[""] * (len(SCANNED) - 2)])
                notes.append(wrap(f"- {label}: {row['reason']}."))
                continue
            cells.append([*timed(row, label), f"{row['check']['error']:.1e}"])
        heading = f"### scan {mode}, batch {batch}, {channels} channels, {states} states, {length} pixels"
        parts.append("\n\n".join(filter(None, [heading, text_grid(SCANNED, cells), "\n".join(notes)])))
    if parts:
        parts.append(
            wrap(
                f"Scans in {rows[0]['precision']}, sorted, with prompts. error: the largest relative one, by norm, of "
                "the result and every gradient against float64."
            )
        )
    return parts


def networks(rows: Sequence[Row]) -> list[str]:
    """Candidates side by side at every point, what was not timed, cost by pixels, and how it was measured."""
    name, parts = namer(rows), []
    for (mode, height, width, batch), group in groupby(rows, _point):
        parts.append(compared(f"{mode}, {height}x{width}, batch {batch}", list(group), name))
    parts.append(missing(rows, name))
    for mode, batch in dict.fromkeys((row["mode"], row["batch"]) for row in rows):
        chosen = [row for row in rows if (row["mode"], row["batch"]) == (mode, batch)]
        parts += [spent(mode, batch, chosen, name), growth(mode, batch, chosen, name)]
    return [*parts, _how(rows)]


def _point(row: Row) -> tuple[str, int, int, int]:
    return row["mode"], row["height"], row["width"], row["batch"]


# --- names of candidates -----------------------------------------------------------------------------------------


def _fields(row: Row) -> tuple[str, ...]:
    overrides = "".join(f" {key}={value}" for key, value in row["overrides"].items())
    return row["model"] + overrides, row["precision"], row["backend"], "" if row["launch"] == "eager" else row["launch"]


def _common(rows: Sequence[Row]) -> str:
    """What all candidates share, in words."""
    columns = [set(column) for column in zip(*map(_fields, rows), strict=True)]
    return " ".join(filter(None, (next(iter(column)) for column in columns if len(column) == 1)))


def namer(rows: Sequence[Row]) -> Name:
    """A function that names a row's candidate by what not all of `rows` share."""
    differs = [len(set(column)) > 1 for column in zip(*map(_fields, rows), strict=True)]

    def name(row: Row) -> str:
        own = " ".join(part for part, is_own in zip(_fields(row), differs, strict=True) if is_own and part)
        return own or ("eager" if any(differs) else row["model"])

    return name


# --- tables ------------------------------------------------------------------------------------------------------


def compared(heading: str, rows: Sequence[Row], name: Name) -> str:
    """The candidates of one point that could run, in time and memory, with ratios to the first of all."""
    cells = []
    for row in (row for row in rows if row["status"] != "unavailable"):
        if row["status"] != "ok":
            cells.append([name(row), STATUS[row["status"]], *[""] * (len(COMPARED) - 2)])
            continue
        cells.append(timed(row, name(row)))
    return "\n\n".join([f"### {heading}", text_grid(COMPARED, cells)]) if cells else ""


def timed(row: Row, label: str) -> list[str]:
    """The cells of COMPARED."""
    texts = [label, figure(row["median_ms"]), span(row["p10_ms"], row["p90_ms"]), figure(row["ratio"], 3)]
    texts += [span(row["ratio_low"], row["ratio_high"]), figure(row["peak_mib"]), figure(row["pool_mib"])]
    return [*texts, figure(row["first_call_s"], 3)]


def missing(rows: Sequence[Row], name: Name) -> str:
    """What was not timed, and why: a line for all candidates that share a reason."""
    reasons: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        if row["status"] != "ok":
            where = f"{row['mode']} {row['height']}x{row['width']} x{row['batch']}"
            key = STATUS[row["status"]], row["reason"] or ""
            reasons.setdefault(key, {}).setdefault(name(row), []).append(where)
    points = len({_point(row) for row in rows})
    lines = []
    for (status, reason), found in reasons.items():
        each = (label + (f" ({', '.join(at)})" if len(at) < points else "") for label, at in found.items())
        lines.append(wrap(f"- {status}: {'; '.join(each)}. {reason.rstrip('.')}."))
    return "\n\n".join(["### not timed", "\n".join(lines)]) if lines else ""


def spent(mode: str, batch: int, rows: Sequence[Row], name: Name) -> str:
    """What a pixel costs at every size, candidate by candidate; empty where nothing was timed."""
    cells = []
    for label, group in _by_name(rows, name):
        for row in group:
            pixels = row["height"] * row["width"] * row["batch"]
            peak, macs, ms = row["peak_mib"], row["macs"], row["median_ms"]
            texts = [label, f"{row['height']}x{row['width']}", figure(ms), figure(1e3 * ms / pixels, 3)]
            texts += [figure(row["images_per_s"], 3), figure(row["megapixels_per_s"], 3), figure(peak)]
            texts += [figure(peak and 1024 * peak / pixels, 3), figure(macs and macs / 1e9)]
            cells.append([*texts, figure(macs and macs / 1e6 / ms)])
    if not cells:
        return ""
    columns = (("peak_mib", "MiB"), ("macs", "GMAC"))
    reasons = dict.fromkeys((label, row[f"{key}_reason"]) for row in rows for key, label in columns)
    blank = "; ".join(f"{label} ({reason})" for label, reason in reasons if reason)
    note = "Input pixels of the whole batch; MACs are one forward pass's." + (f" Not there: {blank}." if blank else "")
    return "\n\n".join([f"### {mode}, batch {batch}: what a pixel costs", text_grid(SPENT, cells, 2), wrap(note)])


def growth(mode: str, batch: int, rows: Sequence[Row], name: Name) -> str:
    """Exponents of time and memory against the number of input pixels; empty for fewer than two sizes."""
    cells = []
    for label, group in _by_name(rows, name):
        pixels = [row["height"] * row["width"] for row in group]
        if len(set(pixels)) < 2:
            continue
        texts = [label, str(len(pixels))]
        for key in ("median_ms", "peak_mib"):
            values = [row[key] for row in group]
            slope, low, high = exponent(pixels, values) if None not in values else (None, None, None)
            texts += [figure(slope, 3), span(low, high)]
        cells.append(texts)
    if not cells:
        return ""
    note = (
        "Exponents of growth with the number of pixels: slopes of the straight line through the logarithms (least "
        "squares, t interval). 1 is proportional; below it a fixed cost is spread over more pixels."
    )
    return "\n\n".join([f"### {mode}, batch {batch}: growth with the pixels", text_grid(GROWTH, cells), wrap(note)])


def exponent(pixels: Sequence[int], values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """(slope of log value on log pixels, ends of its 95 % t interval); the ends are None for two sizes."""
    fit = stats.linregress(np.log(pixels), np.log(values))
    slope = float(fit.slope)
    if len(pixels) < 3:
        return slope, None, None
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(pixels) - 2) * fit.stderr)
    return slope, slope - half, slope + half


def _by_name(rows: Sequence[Row], name: Name) -> list[tuple[str, list[Row]]]:
    """Timed rows by candidate, in the order of the candidates, smallest images first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] == "ok":
            groups.setdefault(name(row), []).append(row)
    return [(label, sorted(group, key=lambda row: row["height"] * row["width"])) for label, group in groups.items()]


def _how(rows: Sequence[Row]) -> str:
    limits = {}
    for row in rows:
        if row["check"]:
            limit = row["check"]["limits"]
            given = f"{limit['given_share']:.1%} of values within {limit['given']:g}"
            free = f"{limit['free_share']:.0%} within {limit['free']:g}"
            limits[f"{row['precision']} {row['mode']}"] = f"{given}, {free}"
    notes = [
        f"ms: median over {max(row['runs'] for row in rows)} rounds in which the candidates take turns. ratio: median "
        "over rounds of the time divided by that of the first candidate, with a bootstrap interval. first s: the first "
        "call, with what it compiles and records."
    ]
    if any(row["peak_mib"] is not None for row in rows):
        notes.append("MiB: the most that tensors take in a call, weights included, other candidates' left out.")
    if any(row["launch"] == "graph" for row in rows):
        notes.append(
            "graph: one CUDA graph, started while the device still works, as in a pipeline; its MiB are those of the "
            "recording, and pool MiB is what it holds as long as it lives."
        )
    if limits:
        shares = "; ".join(f"{name}: {text}" for name, text in limits.items())
        notes.append(
            "Checked before and after timing against the plain network in float32, with random weights and the same "
            "Gumbel noise. Values in units of their tensor's root mean square, first with the order of the scan given, "
            f"then with the network's own. {shares}."
        )
    return "\n".join(wrap(f"- {note}") for note in notes)


# --- text --------------------------------------------------------------------------------------------------------


def wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  " * text.startswith("- "))


def figure(value: float | None, digits: int = 4) -> str:
    """That many significant digits; empty for None."""
    if value is None:
        return ""
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{places}f}"


def span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{figure(low, 3)}, {figure(high, 3)}"
