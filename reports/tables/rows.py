"""What every table shares: the columns of its frame, and how an interval and a protocol read in it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from reports.statistics.intervals import Interval


class TableError(ValueError):
    """A table or a format that does not exist. The message names those that do."""


# kind: paper (a published table), trained (variants against their base), sensitivity (one network, other protocols),
# interventions (trained weights with one change; study is the question), plain (a row per number, as it is)
# study: hash of what cells trained here must share to be compared; empty for a paper's table
# setting: in what a study differs from the others of its table; empty for the only one
# published: as printed; in a trained table the published difference from the base
# p: Holm's, within the family, of no difference; own_low, own_high: the interval by this variant's own variance
# median, worse: of the images' differences, and how many are below 0
# mde: what would be found with power 0.8, given in inconclusive rows
# made_by: commands, dates and whereabouts of what was measured (`made_by`)
COLUMNS = (
    *("table", "kind", "method", "model", "overrides", "task", "budget", "study", "setting", "dataset", "size"),
    *("metric", "published", "measured", "difference", "low", "high", "interval", "df", "p", "own_low", "own_high"),
    *("median", "worse", "mde", "verdict", "evidence", "protocol", "provenance", "source", "note", "made_by"),
)


def interval_fields(interval: Interval, metric: str, unit: str = "seed") -> dict[str, Any]:
    """The columns difference, low, high, interval and df. Without scatter the interval is a count."""
    digits = 4 if metric == "ssim" else 3
    text = units(interval.n, unit)
    if interval.low is not None:  # z: what rounds to zero has no negative sign
        text = f"[{interval.low:+z.{digits}f}, {interval.high:+z.{digits}f}] n={interval.n}"
    values = {"difference": interval.mean, "low": interval.low, "high": interval.high}
    return values | {"interval": text, "df": interval.df}


def units(n: int, unit: str = "seed") -> str:
    return f"{n} {unit}{'s' if n > 1 else ''}"


def machine_text(entries: Iterable[Mapping[str, Any]]) -> str:
    """Where and with which code records or cells were made: "NVIDIA H200, commit 0123abcd"; several of them each."""
    return " and ".join(
        dict.fromkeys(f"{one['device'] or 'unknown'}, commit {(one['commit'] or 'unknown')[:8]}" for one in entries)
    )


def made_by(entries: Iterable[Mapping[str, Any]]) -> str:
    """By which commands, on which days, whether they are the store's or committed, and what other machines scored
    otherwise: rows of `Evidence`. Empty for no entries.
    """
    entries = list(entries)
    if not entries:
        return ""
    commands = dict.fromkeys(f"`{one['command'] or 'unknown command'}`" for one in entries)
    days = sorted({str(one["finished"] or "unknown date")[:10] for one in entries})
    places = dict.fromkeys("committed" if one.get("committed") else "in this store" for one in entries)
    dates = " to ".join(dict.fromkeys((*days[:1], *days[-1:])))
    others = "; ".join(dict.fromkeys(one["other_machines"] for one in entries if one.get("other_machines")))
    told = f"; other machines: {others}" if others else ""
    return f"{' and '.join(commands)}, {dates}, {' and '.join(places)}{told}"


def protocol_text(protocol: Mapping[str, Any]) -> str:
    """A protocol in one line; what does not apply (None) is left out."""
    return ", ".join(f"{name} {value}" for name, value in protocol.items() if value is not None)


def is_own(overrides: Mapping[str, Any]) -> bool:
    """Whether they are of a class in a user's file, which no published number is of."""
    return "source" in overrides


def overrides_text(overrides: Mapping[str, Any]) -> str:
    """Arguments of a network as the published tables write them: `ase=off scans=2`; of a user's network the class, what
    it was built with and the start of the hash of its source."""
    if is_own(overrides):
        named = f"class={overrides['class']} source={overrides['source'][:8]}"
        return f"{named} {overrides_text(overrides['arguments'])}".strip()
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in sorted(overrides.items())}
    return " ".join(f"{name}={value}" for name, value in values.items())
