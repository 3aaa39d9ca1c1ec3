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

from results import measured
from results.agreement import limits, other_machines
from results.analyses import committed

COLUMNS = ("precision", "routing", "kinds", "devices", "question", "dataset", "image", "psnr", "ssim")
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
                    **{"question": question, "dataset": json.loads(question)["dataset"], "image": image},
                    **{score: abs(a[score] - b[score]) for score in ("psnr", "ssim")},
                }
            )
    return pd.DataFrame(found, columns=list(COLUMNS))


def table(found: pd.DataFrame) -> pd.DataFrame:
    """A row per precision, routing and kinds of `pairs`: how many, how many of them equal to `limits.EXACT`, median,
    99 % quantile and largest difference of PSNR; how many have an SSIM, and its largest difference."""
    rows = []
    for key, part in found.groupby(["precision", "routing", "kinds"], sort=True):
        ssim = part["ssim"].dropna()
        quantiles = part["psnr"].quantile([0.5, 0.99, 1]).to_list()
        equal = int((part["psnr"] <= limits.EXACT).sum())
        rows.append([*key, len(part), equal, *quantiles, len(ssim), ssim.max()])
    names = ["precision", "routing", "kinds", "pairs", "equal", "median", "most", "psnr", "with_ssim", "ssim"]
    return pd.DataFrame(rows, columns=names)


def rounded_up(value: float) -> float:
    """To two digits, never down: as `limits.MEASURED` says what was largest."""
    if not value > 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")


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
