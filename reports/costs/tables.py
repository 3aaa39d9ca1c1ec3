"""The tables of docs/efficiency.md and of the report's costs against resolution, made from committed sweeps."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from reports.costs import counts, memory, modes, scans
from reports.costs import frames as costs
from reports.pages.profile import figure, span
from reports.statistics.growth import exponent, proportional
from reports.tables.blocks.block import Block, Cell, filled
from reports.tables.render import grid
from results import published

NOTHING = "No sweep is committed: `runner.py profile --preset resolution` measures one, `runner.py export` commits it."
NO_CHALLENGE = "No sweep of it is committed: `runner.py profile --preset ntire` measures one."
NO_PICTURE = "No record is committed: `runner.py restore --json` makes one."
GROWTH = ("network", "precision", "sizes", "time ~ pixels^", "95 %", "from 256x256", "95 %", "memory ~ pixels^", "95 %")
GROWTH = (*GROWTH, "proportional from", "to")
FEWEST = 4  # sizes of an exponent: the interval of three has one degree of freedom, and says nothing
LARGE = 256 * 256  # pixels from which the second exponent is taken
TABLE = ("network", "params", "published", "GMAC", "as the paper", "published", "precision", "ms", "p10, p90", "MiB")
TABLE = (*TABLE, "ns/pixel", "TFLOP/s", "share of ceiling, %", "TB/s", "PSNR Urban100", "commit")
DIRECTIONS = ("size", "precision", "0 scans", "1", "2", "4", "4 over 1", "SGN off", "ASE off", "MambaIR-light (4)")
ELSEWHERE = ("network", "precision", "ms", "ns/pixel", "GB", "params")
UNTIMED = ("network", "why", "points")
MEASURED = "results/measured/"
COUNTED = f"{MEASURED}counted: runner.py complexity --swept, or --all"
LIGHT = "mambairv2-light"
WAYS = ("0 scans", "1", "2", "4", "SGN off", "ASE off", "MambaIR-light (4)")
COMPARED = (f"{LIGHT} scans=0", LIGHT, *(f"{LIGHT} {part}" for part in ("scans=2", "scans=4", "sgn=off", "ase=off")))
COMPARED = (*COMPARED, "mambair-light")
PASSES = {"fp32": "fp32", "tf32x3": "tf32", "tf32": "tf32", "bf16": "bf16"}  # the rate that bounds a precision


def growth() -> list[Block]:
    """Exponents of time and memory against pixels, and where a pixel costs least; all sizes of one sweep."""
    frame = costs.fastest(costs.of_one_sweep(costs.timed(every=True)))
    frame = frame[(frame["mode"] == "inference") & (frame["batch"] == 1) & (frame["task"] == "sr-x2")]
    blocks = []
    for machine, part in frame.groupby("machine", sort=False):
        rows = []
        for (subject, precision, backend), own in part.groupby(["subject", "precision", "backend"], sort=False):
            own = own.sort_values("pixels")
            if own["pixels"].nunique() < FEWEST or backend == "mamba_ssm":
                continue
            time, large = exponent(own["pixels"], own["ms"]), own[own["pixels"] >= LARGE]
            texts = [str(time.sizes), figure(time.slope, 3), span(time.low, time.high)]
            later = exponent(large["pixels"], large["ms"]) if len(large) > 2 else None
            texts += [figure(later.slope, 3), span(later.low, later.high)] if later else ["", ""]
            held = own[own["mib"].notna()]
            memory = exponent(held["pixels"], held["mib"].astype(float)) if len(held) > 2 else None
            texts += [figure(memory.slope, 3), span(memory.low, memory.high)] if memory else ["", ""]
            texts += [_size(own, edge) for edge in proportional(own["pixels"].tolist(), own["ms"].tolist())]
            rows.append([Cell(costs.name(subject)), Cell(precision), *_cells(texts, own)])
        blocks += _block(f"{machine}{_clock(part)}:", GROWTH, rows, left=2)
    return blocks


def table() -> list[Block]:
    """Parameters, multiply-adds, time and memory at the input behind a 720x1280 output, with what was published.

    With this project's scan; `scans.table` has the other one beside it."""
    frame = costs.fastest(costs.timed())
    frame = frame[frame["backend"] != "mamba_ssm"]
    frame = frame[(frame["height"] == costs.IMAGE[0]) & (frame["width"] == costs.IMAGE[1]) & (frame["batch"] == 1)]
    frame = frame[(frame["mode"] == "inference") & (frame["task"] == "sr-x2")]
    counts = costs.counted()
    blocks = []
    for machine, part in frame.groupby("machine", sort=False):
        rows = []
        for row in part.sort_values("ms").to_dict("records"):
            subject, method = row["subject"], costs.METHODS.get(row["subject"], "")
            count = counts.get((subject.removeprefix(costs.CODE), row["task"], *costs.IMAGE))
            macs = count and count["macs"]
            paper = count and count["macs_paper"]
            told = [figure(macs and macs / 1e9), figure(paper and paper / 1e9)]
            params = "" if row["params"] is None else f"{row['params']:,.0f}"
            counted = [Cell(text, source=COUNTED) for text in (params, *told)]
            rate = costs.OPERATIONS * macs / (row["ms"] / 1e3) if macs else None
            texts = [f"{row['precision']} {row['launch']}", _time(row), span(row["p10_ms"], row["p90_ms"])]
            texts += [figure(row["mib"]), figure(1e6 * row["ms"] / row["pixels"], 3), figure(rate and rate / 1e12, 3)]
            texts += [figure(rate and 100 * rate / ceiling(row), 2) if ceiling(row) else ""]
            texts += ["" if pd.isna(row["bytes"]) else figure(row["bytes"] / row["ms"] / 1e9, 3)]
            cells = [Cell(costs.name(subject)), counted[0], _printed(method, "params"), counted[1], counted[2]]
            cells += [_printed(method, "macs"), *(Cell(text, source=row["source"]) for text in texts)]
            rows.append([*cells, _printed(method, "psnr", "Urban100"), Cell(costs.origin(row["source"])[1])])
        if len({row[-1].text for row in rows}) == 1:  # said below
            rows = [[*row[:-1], Cell()] for row in rows]
        blocks += _block(f"{machine}{_clock(part)}:", TABLE, rows, left=1)
    return blocks


def directions() -> list[Block]:
    """What a scan direction, the sort and the prompts cost in the light network, size by size.

    All of a row are of one sweep: another one has other kernels."""
    frame = costs.timed(every=True)
    frame = frame[(frame["mode"] == "inference") & (frame["batch"] == 1) & (frame["task"] == "sr-x2")]
    frame = frame[frame["backend"] != "mamba_ssm"]
    blocks = []
    for machine, part in frame.groupby("machine", sort=False):
        rows = []
        for (_, precision), own in part.groupby(["pixels", "precision"]):
            own = costs.fastest(costs.of_one_sweep(own[own["subject"].isin(COMPARED)], ("pixels",), "subject"))
            by_subject = {row["subject"]: row for row in own.to_dict("records")}
            found = {label: by_subject.get(subject) for label, subject in zip(WAYS, COMPARED, strict=True)}
            if not found["1"] or not found["4"]:
                continue
            size = f"{found['1']['height']}x{found['1']['width']}"
            texts = {label: _time(row) if row else "" for label, row in found.items()}
            ratio = found["4"]["ms"] / found["1"]["ms"]
            noisy = " (noisy)" if found["4"]["noise"] or found["1"]["noise"] else ""
            texts |= {"size": size, "precision": precision, "4 over 1": f"{ratio:.2f}{noisy}"}
            rows.append(_cells([texts[label] for label in DIRECTIONS], own))
        blocks += _block(f"{machine}{_clock(part)}, ms:", DIRECTIONS, rows, left=2)
    return blocks


def untimed() -> list[Block]:
    """What has no time, and why: a row for everything that shares a reason."""
    frame, blocks = costs.untimed(), []
    for machine, part in frame.groupby("machine", sort=False):
        rows = []
        for (status, reason), own in part.groupby(["status", "reason"], sort=False):
            names = ", ".join(dict.fromkeys(map(costs.name, own["subject"])))
            rows.append([Cell(names), Cell(f"{status}: {reason}", source=own.iloc[0]["source"]), Cell(str(len(own)))])
        blocks += _block(f"{machine}:", UNTIMED, rows, left=2)
    return blocks


def elsewhere() -> list[Block]:
    """What other projects published of networks of the same tables and of later ones, each on its own machine."""
    return [_elsewhere(told) for told in published.latency()]


def _elsewhere(told: dict[str, Any]) -> Block:
    rows = []
    pixels = told["height"] and told["height"] * told["width"]
    for row in sorted(told["rows"], key=lambda row: row["seconds"]):
        each = pixels and 1e9 * row["seconds"] / pixels
        texts = [row["method"], row["precision"], figure(1e3 * row["seconds"]), figure(each, 3), figure(row["gb"], 3)]
        texts += ["" if row["params"] is None else f"{row['params']:,}"]
        rows.append([Cell(text, source=told["source"]) for text in texts])
    size = f", input {told['height']}x{told['width']}" if pixels else ""
    heading = f"{told['machine']}, {told['task']}{size}, {told['how']}:"
    return Block(heading, *filled(ELSEWHERE, rows), [f"- {told['source']}"], (0, 1) if rows[0][1].text else (0,))


def ceiling(row: dict[str, Any]) -> float | None:
    """Operations per second that bound matrix products in a row's precision on its machine, as measured there."""
    rate = row["rates"].get(PASSES[row["precision"]])
    return rate and rate / costs.PRODUCTS.get(row["precision"], 1)


# --- text --------------------------------------------------------------------------------------------------------


def _time(row: dict[str, Any]) -> str:
    return figure(row["ms"]) + ("~" if row["noise"] else "")


def _clock(part: pd.DataFrame) -> str:
    busy = part["clock"].eq("processor")
    return ", the processor's own time because the machine was busy" if len(part) and busy.all() else ""


def _size(own: pd.DataFrame, pixels: int) -> str:
    row = own[own["pixels"] == pixels].iloc[0]
    return f"{row['height']}x{row['width']}"


def _printed(method: str, metric: str, dataset: str = "") -> Cell:
    row = costs.printed(method, "sr-x2", metric, dataset) if method else None
    if row is None or row["value"] in ("", "-"):
        return Cell()
    return Cell(row["value"], source=f"{row['table']}, {row['provenance']}: {row['source']}")


def _cells(texts: Sequence[str], own: pd.DataFrame) -> list[Cell]:
    return [Cell(text, source=own.iloc[0]["source"]) for text in texts]


def _block(heading: str, header: Sequence[str], rows: list[list[Cell]], left: int) -> list[Block]:
    if not rows:
        return []
    names, cells = filled(header, rows)
    used = dict.fromkeys(cell.source for row in cells for cell in row if cell.source.startswith(MEASURED))
    notes = [costs.files(text for text in used if text != COUNTED)]
    if any(cell.text.endswith(("~", "(noisy)")) for row in cells for cell in row):
        notes.insert(0, "~: the machine was not quiet; the file says in what way.")
    return [Block(heading, names, cells, notes, tuple(range(left)))]


CAPTIONS = {
    "growth": "Exponents of time and memory against pixels, and over which sizes time is proportional",
    "networks": "Parameters, multiply-adds, time and memory for a 720x1280 output, beside what was published",
    "directions": "What scan directions, the sort by classes and the prompts cost in the light network",
    "scans": "With mamba_ssm's scan and with this project's",
    "steps": "Time and memory of training steps",
    "batches": "Many images at once, beside one alone",
    "challenge": "x4 by the protocol of the efficiency challenge",
    "cards": "What pictures cards of 8, 16 and 24 GiB hold, from measured memory",
    "large": "Large pictures restored in tiles",
    "counts": "Parameters and multiply-adds of what can be built, beside what is printed",
    "elsewhere": "Time and memory of other networks as another project published them",
    "untimed": "What has no time, and why",
}


def blocks() -> dict[str, Callable[[], list[Block]]]:
    """What makes each table that CAPTIONS names."""
    made = {"growth": growth, "networks": table, "directions": directions, "scans": scans.table, "cards": memory.cards}
    made |= {"steps": modes.steps, "batches": modes.batches, "challenge": modes.challenge}
    return made | {"large": memory.large, "counts": counts.table, "elsewhere": elsewhere, "untimed": untimed}


def tables() -> dict[str, Callable[[], str]]:
    """What makes each table of the document, as Markdown."""
    made = {name: lambda make=make: markdown(make()) or NOTHING for name, make in blocks().items()}
    made |= {"challenge": lambda: markdown(modes.challenge()) or NO_CHALLENGE}
    return made | {"large": lambda: markdown(memory.large()) or NO_PICTURE}


def markdown(made: Sequence[Block]) -> str:
    parts = []
    for block in made:
        parts += [block.heading, grid(block.header, block.rows, block.left), "\n".join(block.notes)]
    return "\n\n".join(filter(None, parts))
