"""The published numbers: CSV files of this shape in `results/published/`, one row per cell of a paper's table.

    table       how `tables NAME` calls it; rows of one table may come from several files
    method      the row's name as printed
    model       our catalogue name of the same network, empty for a method that is not built here
    overrides   its arguments where they differ from the catalogue's: `scans=0`, `num_tokens=32 inner_rank=4`
    task        `sr-x2`, `denoise-15`, `jpeg-10`, ...
    iterations  length of its training, where it is known and a training of ours could be compared with it
    weights     `none` where the weights behind the row were never released: only training anew can be compared with it
    dataset     what psnr and ssim were measured on (BSDS100 is BSD100 here)
    size        height x width of the output for which macs were counted
    metric      psnr, ssim, params or macs
    value       as printed, every digit kept: `38.30`, `774K`, `286.3G`; `-` where the paper prints a dash
    provenance  primary (the paper's own table), secondary (somebody's note), computed (by this project), not found
    source      where the value was read
    note        what a reader should know about it

A first line that starts with `#` is the table's caption. Another paper's table is one more file.

`weights.json` names the weights that the authors published: only their scores are compared with published ones.
`latency.json` is what other projects published of seconds and memory.
"""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd  # half a second that the names of the tables need not wait for

FOLDER = Path(__file__).parent / "published"
COLUMNS = (
    *("table", "method", "model", "overrides", "task", "iterations", "weights", "dataset", "size", "metric"),
    *("value", "provenance", "source", "note"),
)
PROVENANCE = ("primary", "secondary", "computed", "not found")
RANGES = {"psnr": (0, 100), "ssim": (0, 1), "params": (1, 1e15), "macs": (1, 1e18)}
CELL = ["table", "method", "overrides", "task", "iterations", "dataset", "size", "metric"]  # names a value

_NUMBER = re.compile(r"(\d+)(?:\.(\d+))?([KMGT]?)")
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_FORMS = {
    "table": (re.compile(r"[\w.-]+"), "a name without spaces"),
    "task": (re.compile(r"sr-x\d+|(denoise|jpeg)-\d+"), "a task such as sr-x2, denoise-15 or jpeg-10"),
    "iterations": (re.compile(r"\d*"), "a whole number or nothing"),
    "weights": (re.compile("(none)?"), "none or nothing"),
    "size": (re.compile(r"(\d+x\d+)?"), "HEIGHTxWIDTH or nothing"),
    "overrides": (re.compile(r"(\w+=\S+( \w+=\S+)*)?"), "NAME=VALUE pairs between single spaces, or nothing"),
}


class PublishedError(ValueError):
    """A file of published numbers that cannot be used. One line with file, line and column."""


@dataclass
class Published:
    """tables: a frame with COLUMNS, all strings, per table. problems: one line per file that was left out."""

    tables: dict[str, "pd.DataFrame"] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def names() -> list[str]:
    """Names of the tables of all files in FOLDER that can be read, in order."""
    found: dict[str, None] = {}
    for path in sorted(FOLDER.glob("*.csv")):
        with suppress(PublishedError):
            found |= dict.fromkeys(row["table"] for row in _rows(path)[1])
    return sorted(found, key=_natural)


def committed() -> Published:
    """Every table under FOLDER, read once."""
    return _once(FOLDER)


@cache
def _once(folder: Path) -> Published:
    return load(folder)


def load(folder: Path | None = None) -> Published:
    """Every table under `folder` (FOLDER), in order. A file that cannot be used is left out and named in `problems`."""
    import pandas as pd

    published, seen, folder = Published(), {}, FOLDER if folder is None else folder
    for path in sorted(Path(folder).glob("*.csv")):
        try:
            caption, frame = read(path)
            for line, cell in zip(frame["line"], frame[CELL].itertuples(index=False, name=None), strict=True):
                if cell in seen:
                    raise PublishedError(f"{path.name}, line {line}: repeats the cell of {seen[cell]}")
        except PublishedError as error:
            published.problems.append(str(error))
            continue
        for line, cell in zip(frame["line"], frame[CELL].itertuples(index=False, name=None), strict=True):
            seen[cell] = f"{path.name}, line {line}"
        for name, rows in frame.drop(columns="line").groupby("table", sort=False):
            known = published.tables.get(name)
            published.tables[name] = pd.concat([known, rows], ignore_index=True) if known is not None else rows
            published.captions.setdefault(name, caption)
    published.tables = {name: published.tables[name] for name in sorted(published.tables, key=_natural)}
    return published


def read(path: Path) -> tuple[str, "pd.DataFrame"]:
    """The caption and the rows of one file, with their line numbers as `line`.

    Raises PublishedError for a missing or unknown column, a line of another length, a value that is no number or out of
    the metric's range, a provenance, task or size that does not exist, or a cell that appears twice.
    """
    import pandas as pd

    caption, rows = _rows(path)
    return caption, pd.DataFrame(rows, columns=[*COLUMNS, "line"])


def _rows(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """What `read` returns, as dictionaries. Raises as it does."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PublishedError(f"{path.name}: cannot be read as text: {error}") from error
    skipped = 1 if lines and lines[0].startswith("#") else 0
    caption = lines[0].lstrip("# ").strip() if skipped else ""
    reader = csv.reader(lines[skipped:])
    header = next(reader, [])
    for problem, names in (
        ("lacks the column", [name for name in COLUMNS if name not in header]),
        ("has the unknown column", [name for name in header if name not in COLUMNS]),
        ("repeats the column", [name for name in COLUMNS if header.count(name) > 1]),
    ):
        if names:
            raise PublishedError(f"{path.name}, line {1 + skipped}: {problem} {', '.join(map(repr, names))}")
    rows, seen = [], {}
    for fields in _records(reader, path.name, skipped):
        line = reader.line_num + skipped
        if len(fields) != len(header):
            raise PublishedError(f"{path.name}, line {line}: has {len(fields)} columns instead of {len(header)}")
        row = dict(zip(header, fields, strict=True))
        for column, problem in _problems(row):
            raise PublishedError(f"{path.name}, line {line}, column {column}: {problem}")
        cell = tuple(row[name] for name in CELL)
        if cell in seen:
            raise PublishedError(f"{path.name}, line {line}: repeats the cell of line {seen[cell]}")
        seen[cell] = line
        rows.append({**row, "line": line})
    return caption, rows


def _records(reader, name: str, skipped: int) -> Iterator[list[str]]:
    """The lines that hold something."""
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        raise PublishedError(f"{name}, line {reader.line_num + skipped}: {error}") from error


def _problems(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yields (column, what is wrong with it)."""
    if not row["method"]:
        yield "method", "is empty"
    for column, (form, meaning) in _FORMS.items():
        if not form.fullmatch(row[column]):
            yield column, f"{row[column]!r} is not {meaning}"
    if row["metric"] not in RANGES:
        yield "metric", f"{row['metric']!r} is not one of {', '.join(RANGES)}"
    if row["provenance"] not in PROVENANCE:
        yield "provenance", f"{row['provenance']!r} is not one of {', '.join(PROVENANCE)}"
    value = row["value"]
    if row["provenance"] == "not found":
        if value:
            yield "value", f"{value!r} has the provenance 'not found'"
    elif value != "-":
        if not _NUMBER.fullmatch(value):
            yield "value", f"{value!r} is not a number such as 38.30, 774K or 286.3G, nor the dash -"
        else:
            low, high = RANGES[row["metric"]]
            if not low <= number(value) <= high:
                yield "value", f"{value} is out of the range of {row['metric']}, {low:g} to {high:g}"


def official_weights() -> dict[str, dict[str, str]]:
    """What weights.json says of each file of weights, by the hash of its tensors (`models.weights_hash`): file,
    file_sha256, model, task, source."""
    return json.loads((FOLDER / "weights.json").read_text())["weights"]


def weights_name(start: str, task: str) -> str | None:
    """How tables call the weights whose hash begins with `start`: "official x4", "NTIRE x4"; None for others."""
    told = json.loads((FOLDER / "weights.json").read_text())["others"]
    names = dict.fromkeys(official_weights(), "official") | {digest: one["name"] for digest, one in told.items()}
    found = next((name for digest, name in names.items() if digest.startswith(start)), None)
    return found and f"{found} {task.removeprefix('sr-')}"


def goes_on(start: str) -> str | None:
    """The hash of the weights from which those whose hash begins with `start` were trained on; None where none is
    known. Such weights are no witness beside the others."""
    told = json.loads((FOLDER / "weights.json").read_text())["others"]
    return next((one["from"] for digest, one in told.items() if digest.startswith(start)), None)


def number(value: str) -> float | None:
    """A printed value as a number (774K: 774000); None for a dash or nothing."""
    match = _NUMBER.fullmatch(value)
    return float(f"{match[1]}.{match[2] or 0}") * _UNITS[match[3]] if match else None


def last_place(value: str) -> float:
    """One unit of the last printed digit (286.3G: 1e8). Raises ValueError for a dash or nothing."""
    match = _NUMBER.fullmatch(value)
    if not match:
        raise ValueError(f"{value!r} has no digits")
    return _UNITS[match[3]] / 10 ** len(match[2] or "")


def parse_overrides(text: str) -> dict[str, Any]:
    """`"scans=0 ffn=conv"` as a dict; values that are JSON (0, 1.5, null, [2,2]) become what they say."""
    result = {}
    for pair in text.split():
        name, value = pair.split("=", 1)
        try:
            result[name] = json.loads(value)
        except ValueError:
            result[name] = value
    return result


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key: the numbered tables first, table2 before table10, table7 before tableA1."""
    parts = re.findall(r"\d+|\D+", name)
    order = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
    return [(int(not name.startswith("table")), 0, ""), *order]


def latency() -> list[dict[str, Any]]:
    """latency.json, by project: source, machine, how, task, height and width of the input (None where it is not said),
    and rows of method (as in the tables, or as its paper has it), name (its own), precision, seconds of one image, gb
    and params (or None)."""
    return json.loads((FOLDER / "latency.json").read_text())
