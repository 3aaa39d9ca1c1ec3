"""Parameters and multiply-adds of every network of Tables 3 and 4 that can be built, beside what is printed (x2)."""

from reports.costs import frames
from reports.pages.profile import figure
from reports.tables.blocks.block import Block, Cell
from results import measured, published, records

HEADER = ("network", "params", "printed", "same digits", "GMAC", "as the paper", "printed", "same digits", "off by, %")
TASK = "sr-x2"
UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}


def table() -> list[Block]:
    """A row per network with a printed count, the light ones first."""
    rows = []
    for (subject, task, *size), count in sorted(frames.counted().items(), key=lambda item: item[1]["params"]):
        if task != TASK or tuple(size) != frames.IMAGE or subject not in frames.METHODS:
            continue
        cells = {metric: frames.printed(frames.METHODS[subject], TASK, metric) for metric in ("params", "macs")}
        if not any(cells.values()):
            continue
        texts = [frames.name(subject), f"{count['params']:,}", *_beside(count["params"], cells["params"])]
        texts += [figure(count["macs"] / 1e9), figure(count["macs_paper"] and count["macs_paper"] / 1e9)]
        texts += _beside(count["macs_paper"], cells["macs"])
        off = count["macs_paper"] and cells["macs"] and count["macs_paper"] / _number(cells["macs"]) - 1
        rows.append([Cell(text) for text in (*texts, "" if not off else f"{100 * off:+.2f}".replace("-0.00", "0.00"))])
    return [Block("", HEADER, rows, _sources())] if rows else []


def same(count: float, text: str) -> bool:
    """Whether a count prints as a published "286.3G" or "774K"."""
    digits = text.rstrip("".join(UNITS))
    return f"{count / UNITS.get(text[-1], 1):.{len(digits.partition('.')[2])}f}" == digits


def _beside(count: float | None, printed: dict | None) -> tuple[str, str]:
    """(printed, whether the count has the same digits)."""
    if printed is None or printed["value"] in ("", "-"):
        return "", ""
    return printed["value"], "" if count is None else "yes" if same(count, printed["value"]) else "no"


def _number(printed: dict) -> float:
    return published.number(printed["value"])


def _sources() -> list[str]:
    sources = ["`results/measured/counted/complexity.csv`: runner.py complexity --all"]
    if measured.NETWORKS.exists():
        for made in records.read_json(measured.NETWORKS)["environments"].values():
            versions = ", ".join(f"{name} {made['versions'].get(name)}" for name in ("torch", "spandrel", "fvcore"))
            day = made.get("finished", made["started"])[:10]
            told = f"{made['command']}, commit {made['commit'][:10]}, {versions}, {day}"
            sources.append(f"`results/measured/counted/networks.json`: {told}")
    return [f"- {source}" for source in sources]
