"""The tables of docs/interventions.md, made from committed records: what each change of trained weights costs."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from reports.statistics import verdicts
from reports.tables import index
from reports.tables.analyses.interventions import QUESTIONS, compared
from reports.tables.blocks.wording import number
from reports.tables.render import text_grid
from results.evidence import Evidence
from results.published import weights_name
from results.sets import place

MORE = 5  # seeds, against which those that were measured are held
# The changes that take the parts away of which `recovery` tells, by its labels. None does what "plain scan" does, which
# is without prompts and in raster order.
AT_ONCE = {
    "no prompts": "prompts/zero",
    "raster order": "order/raster",
    "no memory": "memory/sorted-1",
    "prompts follow their pixel": "prompts/semantic",
    "argmax routing": "routing/argmax",
    "no scan": "parts/assm-off",
}
# What is off in every layer where `layer-*/PART` is in one.
IN_ALL = {
    "prompts-zero": "prompts/zero",
    "scan-off": "scan/off",
    "attention-off": "parts/attention-off",
    "assm-off": "parts/assm-off",
}
DEAREST = 3  # layers that are named
MARKS = {verdicts.COSTS: "**{}**", verdicts.GAINS: "**{}**", verdicts.NO_EFFECT: "{} ="}


def tables(committed: Callable[[], Evidence]) -> dict[str, Callable[[], str]]:
    """By name: one of each of QUESTIONS, the layers, and what seeds of the noise are worth."""
    made = {question.replace(" ", "-"): partial(_changes, committed, question) for question in QUESTIONS}
    made |= {"layers": lambda: layers(_known(committed())), "seeds": lambda: seeds(_known(committed()))}
    return made | {"recovery": lambda: _recovery(committed())}


def _known(evidence: Evidence) -> pd.DataFrame:
    """Rows of `compared` of weights that have a name, with it as `network`; sets from the smallest."""
    frame = compared(evidence)
    names = [weights_name(*own) for own in frame[["weights", "task"]].itertuples(index=False, name=None)]
    frame = frame.assign(network=names)[[name is not None for name in names]]
    return frame.sort_values("dataset", key=lambda sets: sets.map(place), kind="stable")


def _recovery(evidence: Evidence) -> str:
    if "recovery" not in index.names(evidence):
        return "not measured yet"
    return recovery(_known(evidence), index.table("recovery", evidence))


def _changes(committed: Callable[[], Evidence], question: str) -> str:
    return changes(_known(committed()), question)


def changes(frame: pd.DataFrame, question: str) -> str:
    """A row per change and network that answers `question`, a column per set."""
    own = frame[frame["question"] == question]
    sets = list(dict.fromkeys(own["dataset"]))
    rows = []
    for name, chosen in own.groupby("intervention", sort=False):
        told = f"`{name}`: {chosen['text'].iloc[0]}"
        for network, part in sorted(chosen.groupby("network"), key=lambda pair: order_of(pair[0])):
            cells = {row["dataset"]: cell(row) for row in part.to_dict("records")}
            rows.append([told, network, *(cells.get(each, "") for each in sets)])
            told = ""
    return text_grid(("change", "weights", *sets), rows, 2)


def order_of(network: str) -> tuple[bool, str]:
    """Official weights first."""
    return not network.startswith("official"), network


def cell(row: dict) -> str:
    """The difference in dB with its interval, and the share of pictures that are worse; or why there is none."""
    if row["difference"] is None or row["low"] is None:
        return row["verdict"]
    mean, low, high = (number(row[name], "psnr", signed=True) for name in ("difference", "low", "high"))
    told = f"{MARKS.get(row['verdict'], '{}').format(mean)} [{low}, {high}]"
    return f"{told} {100 * row['worse'] / row['images']:.0f} %"


def recovery(frame: pd.DataFrame, trained: pd.DataFrame) -> str:
    """Two rows per part that weights were trained on without: what its loss costs at once, and after that training.

    trained: the table of the suite `recovery`; of each of its tasks the changes of the released weights.
    """
    psnr = trained[(trained["metric"] == "psnr") & trained["difference"].notna()]
    rows, sets = [], list(dict.fromkeys([*psnr["dataset"], "Urban100"]))
    for (task, method), own in psnr.groupby(["task", "method"], sort=False):
        official = f"official {task.removeprefix('sr-')}"
        same = (frame["network"] == official) & (frame["intervention"] == AT_ONCE.get(method, ""))
        cells = {row["dataset"]: cell(row) for row in frame[same].to_dict("records")}
        if cells:
            rows.append([f"{method}, {official}", "at once", *(cells.get(name, "") for name in sets)])
        cells = {row["dataset"]: _trained(row) for row in own.to_dict("records")}
        first = "" if same.any() else f"{method}, {official}"
        rows.append([first, "trained on", *(cells.get(name, "") for name in sets)])
    return text_grid(("without", "", *sets), rows, 2) if rows else "not measured yet"


def _trained(row: dict) -> str:
    """The difference from the whole network trained on in the same way, and its interval over seeds if there is one."""
    told = number(row["difference"], "psnr", signed=True)
    told = f"**{told}**" if row["verdict"] in (verdicts.WORSE, verdicts.BETTER) else told
    mark = " =" if verdicts.equivalent((row["low"], row["high"])) else ""
    return f"{told}{mark} {row['interval'] or ''}".strip()


def layers(frame: pd.DataFrame) -> str:
    """A row per part and network, on the largest set on which the part was off in every layer alone: in how many layers
    that costs, gains or does nothing, the DEAREST of them, and what it costs in all layers at once."""
    rows = []
    for part, everywhere in IN_ALL.items():
        own, told = frame[(frame["question"] == f"layers: {part}") & frame["low"].notna()], f"`{part}`"
        for network, asked in sorted(own.groupby("network"), key=lambda pair: order_of(pair[0])):
            dataset = max(asked["dataset"].unique(), key=place)
            found = asked[asked["dataset"] == dataset].sort_values(
                "difference", key=lambda column: column.astype(float)
            )
            counts = [(found["verdict"] == word).sum() for word in (verdicts.COSTS, verdicts.GAINS, verdicts.NO_EFFECT)]
            dearest = "; ".join(f"{_layer(row)}: {cell(row)}" for row in found.head(DEAREST).to_dict("records"))
            same = (frame["network"] == network) & (frame["dataset"] == dataset)
            whole = [cell(row) for row in frame[same & (frame["intervention"] == everywhere)].to_dict("records")]
            rows.append([told, f"{network}, {dataset}", *map(str, (*counts, len(found))), dearest, *(whole or [""])])
            told = ""
    header = ("off in one layer", "weights, set", "costs", "gains", "no effect", "of layers")
    header = (*header, f"the {DEAREST} dearest layers, from 0", "in all at once")
    return text_grid(header, rows, 2) if rows else "not measured yet"


def _layer(row: dict) -> int:
    """The number in `layer-07/scan-off`."""
    return int(row["intervention"].partition("/")[0].removeprefix("layer-"))


def seeds(frame: pd.DataFrame) -> str:
    """How much of a difference's uncertainty comes from the seeds of the noise, by network and set.

    The variance of a mean difference over n pictures is scatter^2 / n; noise^2 / s of scatter^2 comes of s seeds. What
    MORE seeds would take off an interval's width follows from both; the last column leaves out changes that are shown
    to be without effect, whose intervals are narrow already.
    """
    own = frame[frame["noise"].notna() & frame["low"].notna()]
    own = own[[len(one) > 1 for one in own["seeds"]]]
    rows = []
    for (network, dataset), part in sorted(own.groupby(["network", "dataset"]), key=_by_place):
        count = part["seeds"].map(len).astype(float)
        scatter, noise = part["scatter"].astype(float), part["noise"].astype(float)
        share = (noise**2 / count / scatter**2).clip(upper=1)
        narrower = 1 - np.sqrt(1 - share * (1 - count / MORE).clip(lower=0))
        wide = narrower[part["verdict"] != verdicts.NO_EFFECT]
        told = [f"{scatter.median():.3f}", f"{noise.median():.3f}", f"{100 * share.median():.1f} %"]
        told.append(f"{100 * wide.max():.1f} %" if len(wide) else "")
        fewest, most = int(count.min()), int(count.max())
        asked = str(most) if fewest == most else f"{fewest} to {most}"
        rows.append([network, dataset, str(len(part)), asked, *told])
    header = ("weights", "set", "changes", "seeds", "between pictures, dB", "between seeds, dB", "part of the variance")
    return text_grid((*header, f"{MORE} seeds narrow an interval by at most"), rows, 2)


def _by_place(pair: tuple) -> tuple:
    (network, dataset), _ = pair
    return order_of(network), place(dataset)
