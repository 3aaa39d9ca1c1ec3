"""What is committed of one picture by the same weights from two machines: what the limits go by.

Scores of evaluation records and PSNRs of interventions (`runner.py analyse`; seven digits) count. An unchanged network
is asked by an intervention as by an evaluation, and so is one whose routing takes the likeliest class.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from results import measured, records
from results.agreement import limits, other_machines
from results.analyses import committed

COLUMNS = (
    *("precision", "routing", "kinds", "devices", "question", "model", "task", "dataset", "image", "psnr", "ssim"),
)
COMMAND = "runner.py tables --documents"
SAME_AS = {"unchanged": {}, "routing/argmax": {"routing": "argmax"}}  # interventions that an evaluation asks too


def pairs(folder: Path | None = None) -> pd.DataFrame:
    """A row per two scores of a picture that `folder` (results/measured) has from two machines, or from one by two
    commits, with COLUMNS: kinds and devices of the two as tuples, in alphabetical order of the kinds; differences in dB
    and of SSIM, missing where one of them does not say it."""
    known: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for question, row in (*_scored(folder), *_asked(folder)):
        known.setdefault((question, row["image"]), []).append(row)
    found = []
    for (question, image), rows in known.items():
        for a, b in combinations(rows, 2):
            if limits.same(a, b):
                continue
            a, b = sorted((a, b), key=lambda row: (limits.kind(row), str(row["device"])))
            found.append(
                {
                    **{name: json.loads(question)["protocol"][name] for name in ("precision", "routing")},
                    **{"kinds": (limits.kind(a), limits.kind(b)), "devices": (a["device"], b["device"])},
                    **{name: json.loads(question)[name] for name in ("model", "task", "dataset")},
                    **{"question": question, "image": image},
                    **{score: abs(a[score] - b[score]) for score in ("psnr", "ssim")},
                }
            )
    return pd.DataFrame(found, columns=list(COLUMNS))


def table(found: pd.DataFrame) -> list[limits.Measured]:
    """A row per precision, routing, kinds and devices of `pairs`; differences to six digits."""
    rows = []
    for key, part in found.groupby(["precision", "routing", "kinds", "devices"], sort=True):
        ssim = part["ssim"].dropna()
        median, most, largest = (float(f"{value:.6g}") for value in part["psnr"].quantile([0.5, 0.99, 1]))
        equal = int((part["psnr"] <= limits.EXACT).sum())
        of = [tuple(sorted(set(part[name]))) for name in ("model", "task", "dataset")]
        ssims = len(ssim), float(f"{ssim.max():.6g}") if len(ssim) else None
        rows.append(limits.Measured(*key, len(part), equal, median, most, largest, *ssims, *of))
    return rows


def write() -> str:
    """Puts the `table` of what is committed into `limits.FILE`, by which limits go from then on. Returns a line."""
    rows = [vars(row) for row in table(pairs())]
    content = (json.dumps({"command": COMMAND, "rows": rows}, indent=1) + "\n").encode()
    changed = not limits.FILE.exists() or limits.FILE.read_bytes() != content
    if changed:
        records.write_bytes(limits.FILE, content)
        limits.measured.cache_clear()
    return f"{limits.FILE}: {'written' if changed else 'as before'}"


def _scored(folder: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((folder or measured.FOLDER).glob("*/*.scores.json")):
        record, scores = measured.read(path)
        scores = scores[scores["hash"].isin(list(record["evaluations"]))]
        questions = {name: json.dumps(entry["key"], sort_keys=True) for name, entry in record["evaluations"].items()}
        whole = other_machines.with_machine(scores, record["environments"]).to_dict("records")
        others = measured.read_other_machines(path)
        others = others[others["source"] == "evaluation"].to_dict("records")
        yield from ((questions[row["hash"]], row) for row in (*whole, *others))


def _asked(folder: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    asked = [record for record in committed.load(folder)[0] if record.key["analysis"] == "interventions"]
    often = Counter(record.hash for record in asked)
    for record in asked:
        change = record.key["parameters"]["intervention"]
        if change not in SAME_AS and often[record.hash] == 1:
            continue
        key = {name: value for name, value in record.key.items() if name not in ("analysis", "parameters")}
        key |= {"labels": "learned"} if change in SAME_AS else {"change": record.key["parameters"]}
        for row in other_machines.with_machine(record.rows, record.environments).to_dict("records"):
            seed = 0 if pd.isna(row["seed"]) else int(row["seed"])
            protocol = {**key["protocol"], "seed": seed, **SAME_AS.get(change, {})}
            yield json.dumps({**key, "protocol": protocol}, sort_keys=True), {**row, "ssim": math.nan}
