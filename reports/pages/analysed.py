"""The tables of docs/analyses.md and docs/classes.md, made from committed records: a row per network and set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from reports.tables.analyses import classes, mechanisms
from reports.tables.analyses.text import number
from reports.tables.render import text_grid
from results.analyses import Record
from results.evidence import Evidence

SETS = ("Set14", "BSD100", "Urban100")  # Set5 is left out where there is a larger one
STEPS = (1, 16, 64, 256, 1024)


def tables(committed: Callable[[], Evidence]) -> dict[str, Callable[[], str]]:
    """Those of analyses.md, by name."""
    return {
        "decay": lambda: decay(committed().analyses),
        "redundancy": lambda: redundancy(committed().analyses),
        "erf": lambda: erf(committed().analyses),
        "lam": lambda: lam(committed().analyses),
    }


def largest(records: Sequence[Record], analysis: str) -> list[Record]:
    """Whole records, trained networks first; of each network those of SETS, or those that there are."""
    own = [one for one in records if one.key["analysis"] == analysis and one.complete]
    large = {(one.key["model"], one.key["weights"]) for one in own if one.key["dataset"] in SETS}
    kept = [one for one in own if one.key["dataset"] in SETS or (one.key["model"], one.key["weights"]) not in large]
    order = [("untrained" in name, name, one.expected) for one in kept for name in [mechanisms.network_name(one)]]
    return [one for _, one in sorted(zip(order, kept, strict=True), key=lambda pair: pair[0])]


def decay(records: Sequence[Record]) -> str:
    header = ("network", "set", "k", "decay over k", "older, sorted", "older, in raster order", "RMS over the output's")
    rows = []
    for record in largest(records, "decay"):
        frame = mechanisms.summary("decay", [record]).set_index(["order", "k"])
        for k in STEPS:
            own, raster = frame.loc[("network", k)], frame.loc[("raster", k)]
            cells = [_bounds(own, "share"), _bounds(raster, "share"), _bounds(own, "of_output")]
            rows.append([own["network"], own["set"], str(k), number(own["decay"], 3), *cells])
    return text_grid(header, rows, 2)


def redundancy(records: Sequence[Record]) -> str:
    header = ("network", "", "set", *(f"`{way}`" for way in mechanisms.WAYS), "layers above 0.7 in `state`")
    rows = []
    for record in largest(records, "redundancy"):
        frame = mechanisms.summary("redundancy", [record]).set_index("way")
        first, state = frame.iloc[0], frame.loc["state"]
        kind = "one scan in four directions" if "repeated" in record.key["parameters"]["directions"] else "four scans"
        ways = [number(frame.loc[way, "similarity"], 3) for way in mechanisms.WAYS[:-1]]
        above = f"{state['above 0.7']} of {state['layers']}"
        rows.append(
            [f"{first['network']}, {first['model']}", kind, first["set"], *ways, _bounds(state, "similarity"), above]
        )
    return text_grid(header, rows, 3)


def erf(records: Sequence[Record]) -> str:
    shares = (0.2, 0.3, 0.5, 0.99)
    rows = []
    for record in largest(records, "erf"):
        frame = mechanisms.summary("erf", [record])
        for procedure, own in frame.groupby("procedure", sort=False):
            found = own.set_index("share")
            cells = ["none" if pd.isna(found.loc[share, "side"]) else _square(found.loc[share]) for share in shares]
            rows.append([own["network"].iloc[0], own["set"].iloc[0], f"`{procedure}`", *cells])
    return text_grid(("network", "set", "procedure", *(f"{100 * share:.0f} %" for share in shares)), rows, 3)


def _square(row: pd.Series) -> str:
    return f"{row['side']:.0f}, {row['area']:.3f}"


def lam(records: Sequence[Record]) -> str:
    header = ("network", "set", "windows", "change", "DI", "less unchanged", "half of the map within", "90 %", "99 %")
    own = [one for one in records if one.key["analysis"] == "lam" and one.complete]
    rows = []
    for row in mechanisms.summary("lam", own).to_dict("records"):
        changed = row["change made"] != "unchanged" and not pd.isna(row.get("change"))
        change = [f"`{row['change made']}`", _bounds(row, "change", 1)] if changed else ["", ""]
        reach = [number(float(row[name]), 1) for name in ("reach50", "reach90", "reach99")]
        place = SETS.index(row["set"]) + 1 if row["set"] in SETS else 0
        cells = [row["network"], row["set"], str(row["images"]), change[0], _bounds(row, "DI", 1), change[1], *reach]
        rows.append((place, cells))
    rows.sort(key=lambda one: (one[0], one[1][0], one[1][3]))
    return text_grid(header, [cells for _, cells in rows], 2)


def _bounds(row: Mapping[str, Any], name: str, digits: int = 3) -> str:
    mean, low, high = (number(float(row[key]), digits) for key in (name, f"{name} low", f"{name} high"))
    return f"{mean} [{low}, {high}]"


# classes.md

QUANTITIES = {
    "pixels that change class in another draw": ("sgn-classes", {"quantity": "changed"}, 3),
    "the same, had every pixel been drawn anew": ("sgn-classes", {"quantity": "changed_at_random"}, 3),
    "pixels in the class that they have without noise": ("sgn-classes", {"quantity": "likeliest"}, 3),
    "classes in use, exp(entropy)": ("prompts", {"quantity": "effective", "routing": "gumbel"}, 2),
    "the same without noise": ("prompts", {"quantity": "effective", "routing": "argmax"}, 1),
    "mutual information with SLIC": ("prompts", {"quantity": "nmi_slic", "routing": "gumbel"}, 3),
    "the same at random": ("prompts", {"quantity": "nmi_slic_at_random", "routing": "gumbel"}, 3),
    "mutual information without noise": ("prompts", {"quantity": "nmi_slic", "routing": "argmax"}, 3),
    "similarity of the next pixel, as scanned": ("sgn-order", {"order": "network"}, 3),
    "sorted by classes shuffled over pixels": ("sgn-order", {"order": "shuffled"}, 3),
    "in raster order": ("sgn-order", {"order": "raster"}, 3),
    "sorted by classes without noise": ("sgn-order", {"order": "likeliest"}, 3),
    "RMS of prompts over RMS of C": ("prompts", {"quantity": "ratio", "routing": "gumbel"}, 3),
    "RMS of the pool over its initial RMS": ("prompts", {"quantity": "growth", "routing": "gumbel"}, 1),
    "effective rank of the pool": ("prompts", {"quantity": "rank", "routing": "gumbel"}, 1),
}
BY_LAYER = ("ratio", "growth", "rank")


def class_table(records: Sequence[Record]) -> str:
    """A row per quantity, a column per network and set; networks that go on from others' weights are left out, and Set5
    where a larger set was asked."""
    frames = {name: pd.DataFrame(_summed(records, name)) for name in ("sgn-classes", "prompts", "sgn-order")}
    columns = sorted({tuple(key) for frame in frames.values() for key in frame[["network", "set"]].values.tolist()})
    larger = {network for network, name in columns if name in SETS}
    columns = [key for key in columns if key[1] in SETS or key[0] not in larger]
    columns.sort(key=lambda key: (key[1] not in ("Set5", *SETS), ("Set5", *SETS).index(key[1]), key[0]))
    rows = []
    for label, (analysis, chosen, digits) in QUANTITIES.items():
        frame = frames[analysis]
        chosen = chosen | ({"scope": "tile", "steps": 1} if analysis == "sgn-order" else {})
        own = frame[(frame[list(chosen)] == pd.Series(chosen)).all(axis=1)].set_index(["network", "set"])
        rows.append([label, *(_cell(own.loc[key], digits) if key in own.index else "" for key in columns)])
    return text_grid(("", *(f"{network}, {name}" for network, name in columns)), rows, 1)


def _summed(records: Sequence[Record], analysis: str) -> Iterator[dict]:
    own = [one for one in records if one.key["analysis"] == analysis and one.complete]
    own = [one for one in own if mechanisms.network_name(one).startswith("official")]
    return classes.SUMMARIES[analysis](own)


def _cell(row: pd.Series, digits: int) -> str:
    mean, low, high = (number(None if row[key] is None else float(row[key]), digits) for key in ("mean", "low", "high"))
    text = f"{mean} [{low}, {high}]" if low else mean
    if row.get("quantity") in BY_LAYER:
        text += f"; {row['lowest layer']:.{digits}f} to {row['highest layer']:.{digits}f} by layer"
    return text
