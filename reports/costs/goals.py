"""The goals of the second round (goals.json, "later"), beside what was measured on the machine that they are for."""

from typing import Any

from reports.costs import floors, frames
from reports.pages.profile import figure, span
from reports.tables.blocks.block import Block, Cell, filled
from results import measured

HEADER = ("what", "how", "goal", "reached", "p10, p90", "95 %", "times the goal", "met", "floor", "times floor")
HEADER = (*HEADER, "measured")
NETWORK = ("mode", "batch", "height", "width", "precision", "launch")
SCAN = ("operator", "mode", "batch", "channels", "states", "length", "precision", "launch")
Row = dict[str, Any]


def table() -> list[Block]:
    """A row per goal and precision; one that was not measured says so."""
    told = measured.goals()
    machine, rates = told["goals_for"], told["machines"][told["goals_for"]]["rates"]
    rows, sources = [], []
    for goal in told["later"]:
        for precision, aim in goal["goals"].items():
            wanted, unit = goal | {"precision": precision}, "times" if "over" in goal else "ms"
            cells = [goal["what"], f"{precision} {goal['launch']}", f"{aim:g} {unit}"]
            row = (of_scan if "operator" in goal else over if "over" in goal else of_network)(wanted, machine)
            if row is None:
                rows.append([Cell(text) for text in (*cells, "not measured", *[""] * (len(HEADER) - 4))])
                continue
            sources.append(row["source"])
            deciles = span(row["p10_ms"], row["p90_ms"])
            noisy = "~" if (row["p90_ms"] - row["p10_ms"]) / row["ms"] > frames.SPREAD else ""
            value, floor = row["ms"], floor_of(wanted | {"bytes": row.get("bytes")}, rates)
            cells += [f"{figure(value)}{noisy}", deciles, ""]
            if "over" in goal:
                value, floor = row["ratio"], None
                cells[-3:] = [f"{value:.2f}{noisy}", "", span(row["ratio_low"], row["ratio_high"])]
            cells += [f"{value / aim:.2f}", "yes" if value <= aim else "no", figure(floor, 3)]
            cells += [figure(floor and value / floor, 2), row["when"]]
            rows.append([Cell(text, source=row["source"]) for text in cells])
    notes = [f"- `{source}`" for source in dict.fromkeys(sources)]
    return [Block(f"One {machine}:", *filled(HEADER, rows), notes, (0, 1))]


def of_network(goal: Row, machine: str) -> Row | None:
    """The latest time of a network, of a sweep or of a profile."""
    frame = frames.timed()
    frame = frame[(frame["machine"] == machine) & (frame["subject"] == goal["subject"]) & (frame["task"] == "sr-x2")]
    for name in NETWORK:
        frame = frame[frame[name] == goal[name]]
    found = frame[frame["backend"] == "triton"].to_dict("records")
    times = [row | {"when": frames.origin(row["source"])[-1]} for row in found]
    for profile in measured.profiles():
        for row in profile["rows"] if profile["environment"]["device"] == machine else ():
            alike = row["status"] == "ok" and row["model"] == goal["subject"] and not row["overrides"]
            if alike and row["backend"] == "triton" and all(row[name] == goal[name] for name in NETWORK):
                times.append(_told(profile, row) | {"bytes": times[0].get("bytes") if times else None})
    return sorted(times, key=lambda row: row["when"])[-1] if times else None


def over(goal: Row, machine: str) -> Row | None:
    """The ratio to another launch of the same network, with which it took turns in the latest profile of both."""
    found = None
    for profile in measured.profiles():
        first, *rest = profile["rows"] or [{}]
        same = profile["environment"]["device"] == machine and first.get("launch") == goal["over"]
        for row in rest if same else ():
            alike = row["status"] == "ok" and row["model"] == first["model"] == goal["subject"] and not row["overrides"]
            alike = alike and row["precision"] == first["precision"] and all(row[n] == goal[n] for n in NETWORK)
            found = _told(profile, row) if alike else found
    return found


def of_scan(goal: Row, machine: str) -> Row | None:
    """The latest time of this project's scan alone."""
    found = None
    for profile in measured.profiles():
        for row in profile["operators"]:
            same = row["status"] == "ok" and row["backend"] == "triton"
            if same and profile["environment"]["device"] == machine and all(row[n] == goal[n] for n in SCAN):
                found = _told(profile, row)
    return found


def _told(profile: Row, row: Row) -> Row:
    environment = profile["environment"]
    when = environment["started"][:10]
    source = frames.source({"machine": environment, "file": profile["file"], "runs": [environment]})
    ratios = {name: row.get(name) for name in ("ratio", "ratio_low", "ratio_high")}
    times = {"ms": row["median_ms"], **{name: row[name] for name in ("p10_ms", "p90_ms")}}
    return times | ratios | {"source": source, "when": when}


def floor_of(row: Row, rates: dict[str, float]) -> float | None:
    """Milliseconds: the larger one of arithmetic and, where they were counted, of bytes; None for a ratio."""
    if "operator" in row:
        return floors.scan_floor_ms(row, rates)
    if "macs" not in row:
        return None
    moved = 1e3 * (row["bytes"] or 0) / rates["bytes_per_s"]
    return max(moved, floors.network_floor_ms(row, row["macs"], rates))
