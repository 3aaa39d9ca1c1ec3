"""What a rendered table shows of its frame: a list of blocks, grids of text with their ranks, whatever the format.

A paper's table: the published values as the paper sets them, then published and measured for the networks that are
built here. What was trained here: a grid of variants per family and dataset. What the protocol is worth: settings down,
datasets across. A plain table: a row per number, a column for whatever its rows say.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from reports.statistics import verdicts
from reports.tables.sensitivity import IDENTICAL, OFFICIAL
from results import published

NAMES = {"psnr": "PSNR", "ssim": "SSIM", "params": "params", "macs": "MACs"}
SIGNS = {"secondary": "†", "computed": "‡"}
LEGEND = {"†": "a secondary source, not the paper itself", "‡": "computed by this project, not printed in the paper"}
COUNTED = ("quantity", "computed", "counted", "difference", "agreement", "verdict")  # nothing published among them
COMPARED = ("quantity", "published", "measured", "difference", "95 % interval", "verdict")
ALIKE = f"±{verdicts.EQUIVALENCE}"
VARIANTS = ("variant", "PSNR", "SSIM", "vs base, 95 %", "paper", "MDE", ALIKE, "verdict")
DIGITS = {"psnr": 3, "ssim": 4}  # of measured scores
SCORES = tuple(DIGITS)


@dataclass(frozen=True)
class Cell:
    """Text of one cell, how it ranks in its column, and where its number comes from."""

    text: str = ""
    mark: Literal["", "best", "second"] = ""
    source: str = ""


def filled(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> tuple[tuple[str, ...], list[list[Cell]]]:
    """The columns that have a text in any row."""
    kept = [i for i in range(len(header)) if any(row[i].text for row in rows)]
    return tuple(header[i] for i in kept), [[row[i] for i in kept] for row in rows]


@dataclass
class Block:
    """A grid under a heading, with notes below. The columns numbered in `left` are aligned left, the others right.

    of: whose numbers these are, where other blocks say the same of others: "MambaIRv2-light, sr-x2".
    """

    heading: str
    header: tuple[str, ...] = ()
    rows: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left: tuple[int, ...] = (0,)
    of: str = ""


def blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """The blocks of a frame of `reports.tables.index.table`, in order."""
    kind = next(iter(frame["kind"]), "paper")
    if kind == "sensitivity":
        for (origin, task), part in frame[frame["metric"] == "psnr"].groupby(["setting", "task"], sort=False):
            yield from _settings(origin, task, part)
    elif kind == "interventions":
        for (origin, task), part in frame.groupby(["setting", "task"], sort=False):
            yield from _changes(origin, task, part)
    elif kind == "trained":
        for (task, _, dataset), part in frame.groupby(["task", "study", "dataset"], sort=False):
            yield _variants(task, dataset, part)
    elif kind == "plain":
        yield _plain(frame)
    else:
        yield from _paper(frame)


def _plain(frame: pd.DataFrame) -> Block:
    said = [name for name in frame.columns.drop(["table", "kind"]) if frame[name].notna().any()]
    notes = []
    if "evidence" in said and frame["evidence"].nunique() == 1:  # said once, below
        said.remove("evidence")
        notes = [_sentence(frame["evidence"].iloc[0])]
    rows = [[_said(row, name) for name in said] for row in frame.to_dict("records")]
    words = tuple(index for index, name in enumerate(said) if not any(isinstance(v, float | int) for v in frame[name]))
    return Block("", tuple(said), rows, notes, left=words)


def _said(row: dict[str, Any], name: str) -> Cell:
    if name == "published":
        return Cell(_text(row[name], row["metric"]), source=published_source(row))
    origin = measured_source(row) if isinstance(row[name], float | int) else ""
    return Cell(_text(row[name], row["metric"]), source=origin)


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


def _text(value: Any, metric: str) -> str:
    if isinstance(value, float):
        return f"{value:.{DIGITS.get(metric, 3)}f}"
    return "" if value is None else str(value)


def _paper(frame: pd.DataFrame) -> Iterator[Block]:
    others = frame[frame["setting"] != ""]
    frame = frame[frame["setting"] == ""]
    for task, part in frame.groupby("task", sort=False):
        for metrics in (("params", "macs", "psnr"), ("ssim",)):
            shown = part[part["metric"].isin(metrics)]
            if not shown.empty:
                yield _as_published(task, shown)
    own = frame[frame["model"] != ""]
    for (task, method), part in own.groupby(["task", "method"], sort=False):
        if part["measured"].notna().any():
            yield from _compared(f"{method}, {task}", part)
    yield from _not_measured(own)
    for (task, method, model, _), part in others.groupby(["task", "method", "model", "setting"], sort=False):
        yield _other_weights(f"{method}, {model}, {task}", part)


def _quantity(row: dict[str, Any]) -> str:
    return " ".join(filter(None, (row["dataset"], NAMES[row["metric"]], row["size"])))


# The table as the paper sets it: methods down, quantities across


def _as_published(task: str, part: pd.DataFrame) -> Block:
    grid: dict[str, dict[str, dict[str, Any]]] = {}
    for row in part.to_dict("records"):
        grid.setdefault(row["method"], {}).setdefault(_quantity(row), row)
    columns = list(dict.fromkeys(name for cells in grid.values() for name in cells))
    marks = {name: _published_marks({method: cells.get(name) for method, cells in grid.items()}) for name in columns}
    signs = dict.fromkeys(SIGNS.get(row["provenance"], "") for row in part.to_dict("records") if row["published"])
    alike = len(signs) == 1  # then one note says it
    rows = [
        [
            Cell(method),
            *(_published_cell(cells.get(name), not alike, marks[name].get(method, "")) for name in columns),
        ]
        for method, cells in grid.items()
    ]
    metric = next((NAMES[name] for name in (*SCORES, "macs") if (part["metric"] == name).any()), "")
    header = ("method", *_short(columns, metric))
    notes = [f"{'All: ' if alike else f'{sign} '}{LEGEND[sign]}." for sign in signs if sign]
    origin = "computed" if list(signs) == [SIGNS["computed"]] else "published"
    return Block(f"{task}, as {origin}: {metric}", header, rows, notes)


def _short(columns: list[str], metric: str) -> list[str]:
    """Names of columns without what the heading says, and MACs without a size where there is only one."""
    names = [name.removesuffix(f" {metric}") if metric in ("PSNR", "SSIM") else name for name in columns]
    counts = [name for name in names if name.startswith("MACs ")]
    if len(counts) == 1:
        return ["MACs" if name in counts else name for name in names]
    return [name.removeprefix("MACs ") for name in names]


def _published_cell(row: dict[str, Any] | None, signed: bool, mark: str) -> Cell:
    return Cell(_published_text(row, signed), mark, published_source(row) if row else "")


def _published_text(row: dict[str, Any] | None, signed: bool = True) -> str:
    if row is None:
        return ""
    return row["published"] + SIGNS.get(row["provenance"], "") * signed if row["published"] else "not found"


def _published_marks(column: dict[str, dict[str, Any] | None]) -> dict[str, str]:
    scores = {name: row for name, row in column.items() if row is not None and row["metric"] in SCORES}
    return _marks({name: published.number(row["published"]) for name, row in scores.items()})


def _marks(values: dict[Any, float | None], digits: int = 4) -> dict[Any, str]:
    """Best and second best, the larger the better; equals (as they are printed) share their mark.

    A column of two has no ranks, nor has one of equals.
    """
    known = {name: round(value, digits) for name, value in values.items() if value is not None and not pd.isna(value)}
    if len(known) < 3 or len(set(known.values())) < 2:
        return {}
    ranks = dict(zip(sorted(set(known.values()), reverse=True), ("best", "second"), strict=False))
    return {name: ranks.get(value, "") for name, value in known.items()}


# Published and measured


def _compared(heading: str, part: pd.DataFrame) -> Iterator[Block]:
    """A block per network that was scored: one, or as many as there are weights; counts stand in the first."""
    scored = part["measured"].notna() & part["metric"].isin(SCORES)
    origin = part["evidence"].where(scored).str.split(",").str[0]
    origins = list(origin.dropna().unique()) or [None]
    for number, name in enumerate(origins):
        rows = part[(origin == name) | (origin.isna() & (number == 0))]
        yield _compared_block(heading, rows)


def _compared_block(network: str, part: pd.DataFrame) -> Block:
    if (part["provenance"] == "computed").all():
        block = Block(f"{network}: computed and counted", COUNTED, left=(0, 5), of=network)
    else:
        block = Block(f"{network}: published and measured", COMPARED, left=(0, 5), of=network)
    blank: dict[str, dict[str, None]] = {}
    for row in part.to_dict("records"):
        if row["measured"] is None:
            blank.setdefault(row["verdict"], {})[row["dataset"] or _quantity(row)] = None
            continue
        ours = measured_source(row)
        texts = (number(row["difference"], row["metric"], signed=True), row["interval"] or "", row["verdict"])
        cells = [Cell(_quantity(row)), _published_cell(row, True, "")]
        cells.append(Cell(number(row["measured"], row["metric"]), source=ours))
        block.rows.append([*cells, *(Cell(text, source=ours) for text in texts[:2]), Cell(texts[2])])
    evidence = {text: rows["dataset"].unique() for text, rows in part.groupby("evidence", sort=False) if text}
    several = sum(any(sets) for sets in evidence.values()) > 1
    protocols = dict.fromkeys(text for text in part["protocol"].dropna() if text)
    for text, sets in evidence.items():
        if text != "counted":
            block.notes.append(_sentence(f"{text} ({', '.join(sets)})" if several and any(sets) else text))
    block.notes += [f"Protocol: {text}." for text in protocols]
    block.notes += [f"Not there: {', '.join(names)} ({reason})." for reason, names in blank.items()]
    return block


def _other_weights(heading: str, part: pd.DataFrame) -> Block:
    """Scores of weights that are not the published ones, compared with nothing."""
    block = Block(f"{heading}: {part['setting'].iloc[0]}, not the published ones", ("quantity", "measured", "of"))
    for row in part.to_dict("records"):
        texts = (number(row["measured"], row["metric"]), row["interval"] or row["verdict"])
        block.rows.append([Cell(_quantity(row)), Cell(texts[0], source=measured_source(row)), Cell(texts[1])])
    for text, rows in part.groupby("evidence", sort=False):
        block.notes.append(_sentence(f"{text} ({', '.join(rows['dataset'].unique())})"))
    block.notes += [_sentence(text) for text in dict.fromkeys(part["note"]) if text]
    block.notes += [f"Protocol: {text}." for text in dict.fromkeys(part["protocol"])]
    official = " If they are the authors': `runner.py evaluate --as-official`."
    own = ", source " in part["setting"].iloc[0]  # a user's network
    block.notes.append(f"Compared with nothing published.{'' if own else official}")
    return block


def _not_measured(own: pd.DataFrame) -> Iterator[Block]:
    reasons: dict[str, dict[str, list[str]]] = {}
    for (task, method), part in own.groupby(["task", "method"], sort=False):
        if part["measured"].isna().all():
            for reason in part["verdict"].unique():
                reasons.setdefault(reason, {}).setdefault(method, []).append(task)
    if reasons:
        lines = []
        for reason, methods in reasons.items():
            lines.append(f"- {reason}: " + "; ".join(f"{name} ({', '.join(tasks)})" for name, tasks in methods.items()))
        yield Block("Not measured", notes=["\n".join(lines)])


# What was trained here


def _variants(task: str, dataset: str, part: pd.DataFrame) -> Block:
    budget, setting = part[["budget", "setting"]].iloc[0]
    heading = f"{task} on {dataset}, {budget} budget{f' ({setting})' if setting else ''}"
    block = Block(heading, VARIANTS, of=", ".join(filter(None, (setting, task, dataset))))
    variants = {key: {row["metric"]: row for row in rows.to_dict("records")} for key, rows in _by_variant(part)}
    marks = {
        metric: _marks({key: rows[metric]["measured"] for key, rows in variants.items()}, n)
        for metric, n in DIGITS.items()
    }
    for key, rows in variants.items():
        psnr = rows["psnr"]
        cells = [Cell(psnr["method"])]
        for name in SCORES:
            text, own = number(rows[name]["measured"], name), measured_source(rows[name])
            cells.append(Cell(text, marks[name].get(key, ""), own))
        ours = measured_source(psnr)
        cells += [Cell(_change(psnr), source=ours), Cell(psnr["published"] or "", source=published_source(psnr))]
        alike = Cell("yes" if verdicts.equivalent((psnr["low"], psnr["high"])) else "")
        block.rows.append([*cells, Cell(detectable(psnr["mde"]), source=ours), alike, Cell(psnr["verdict"])])
    _drop_empty(block, ("paper", "MDE", ALIKE))
    counts = {rows["params"]["method"]: number(rows["params"]["measured"], "params") for rows in variants.values()}
    block.notes.append("Parameters: " + "; ".join(f"{name}: {count or '-'}" for name, count in counts.items()) + ".")
    block.notes += [
        f"{rows['psnr']['method']}: {rows['psnr']['note']}." for rows in variants.values() if rows["psnr"]["note"]
    ]
    scored = part[part["metric"].isin(SCORES)]
    block.notes += [_sentence(text) for text in dict.fromkeys(scored["evidence"].dropna())]
    block.notes += [f"Protocol: {text}." for text in dict.fromkeys(filter(None, part["protocol"]))][:1]
    block.notes += _how(part)
    return block


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


def _change(row: dict[str, Any]) -> str:
    """A difference with half its interval; with the number of seeds or images where there is none."""
    if row["difference"] is None:
        return ""
    half = row["interval"] if row["low"] is None else f"±{number((row['high'] - row['low']) / 2, row['metric'])}"
    return f"{number(row['difference'], row['metric'], signed=True)} {half}"


def detectable(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.3f}" if value < 10 else ">10"


# What the protocol is worth


def _settings(origin: str, task: str, part: pd.DataFrame) -> Iterator[Block]:
    """Scores, then differences from the official protocol; settings down, datasets across."""
    sets = tuple(dict.fromkeys(part["dataset"]))
    rows = {name: own.set_index("dataset").to_dict("index") for name, own in part.groupby("method", sort=False)}
    model = part["model"].iloc[0]
    absent = dict.fromkeys(("measured", "difference", "p", "verdict"))
    scores = Block(f"{model}, {task}: PSNR", ("setting", *sets), notes=[_sentence(origin)])
    changes = Block(f"{model}, {task}: difference from the official protocol, 95 %", ("setting", *sets))
    for name, own in rows.items():
        cells = {each: own.get(each, absent) for each in sets}
        sources = {each: measured_source(row) if row["verdict"] else "" for each, row in cells.items()}
        texts = {each: number(cells[each]["measured"], "psnr") or "-" for each in sets}  # no contest: nothing is best
        scores.rows.append([Cell(name), *(Cell(text, source=sources[each]) for each, text in texts.items())])
        if any(_change(row) for row in cells.values()):
            moved = (Cell(_starred(row) or "-", source=sources[each]) for each, row in cells.items())
            changes.rows.append([Cell(name), *moved])
    for name, own in rows.items():
        for column, shown in (
            ("note", own),
            ("verdict", {k: row for k, row in own.items() if row["measured"] is None}),
        ):
            where: dict[str, list[str]] = {}
            for each, row in shown.items():
                if row[column]:
                    where.setdefault(row[column], []).append(each)
            said = [f"{text} ({', '.join(each)})" for text, each in where.items()]
            scores.notes += [f"{name}: {', '.join(said)}."] * bool(said)
    official = part[part["method"] == OFFICIAL]
    scores.notes += [f"Official protocol: {', '.join(dict.fromkeys(official['protocol']))}."]
    for evidence, own in official.dropna(subset="evidence").groupby("evidence", sort=False):
        scores.notes.append(f"{', '.join(dict.fromkeys(own['dataset']))}: {evidence.partition(', ')[2]}.")
    yield scores
    if changes.rows:
        changes.notes = [
            "Paired over the pictures of a set: at the Gumbel seeds that both have where both draw noise, else with "
            f"the mean of all official seeds. {IDENTICAL.capitalize()}: no score changed. * still below 0.05 after "
            "Holm's correction for the settings of a set.",
            "The interval is about pictures such as these; that the weights are one training's is not in it.",
            "SSIM: as CSV.",
        ]
        yield changes


# What trained weights use


def _changes(origin: str, task: str, part: pd.DataFrame) -> Iterator[Block]:
    """A block per question: changes down, datasets across, the unchanged network's PSNR first."""
    sets = tuple(dict.fromkeys(part["dataset"]))
    base = part[part["verdict"] == verdicts.BASE].set_index("dataset")["measured"].to_dict()
    notes = [_sentence(text) for text in dict.fromkeys(part.loc[part["verdict"] == verdicts.BASE, "evidence"])]
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


def _starred(row: dict[str, Any]) -> str:
    if row["verdict"] == IDENTICAL:
        return IDENTICAL
    star = "*" if row["p"] is not None and row["p"] < 0.05 else ""
    return f"{_change(row)} {star}".rstrip()


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _by_variant(part: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    yield from part.groupby(["method", "model", "overrides"], sort=False)


def number(value: float | None, metric: str, signed: bool = False) -> str:
    """A measured value or difference as text; empty for None."""
    if value is None or pd.isna(value):
        return ""
    digits, unit, suffix = {"params": (0, 1, ""), "macs": (2, 1e9, "G"), "psnr": (3, 1, ""), "ssim": (4, 1, "")}[metric]
    text = f"{value / unit:{'+' if signed else ''},.{digits}f}"
    return (text if text.strip("+-0.,") else text.lstrip("+-")) + suffix  # a zero has no sign
