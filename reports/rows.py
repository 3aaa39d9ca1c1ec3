"""What every table shares: the columns of its frame, and how an interval and a protocol read in it."""

from collections.abc import Mapping
from typing import Any

from reports.statistics import Interval


class TableError(ValueError):
    """A table or a format that does not exist. The message names those that do."""


# study: hash of what cells trained here must share to be compared; empty for a paper's table
# setting: in what a study differs from the others of its table; empty for the only one
COLUMNS = (
    *("table", "method", "model", "overrides", "task", "budget", "study", "setting", "dataset", "size", "metric"),
    *("published", "measured", "difference", "low", "high", "interval", "verdict", "evidence", "protocol"),
    *("provenance", "source", "note"),
)


def interval_fields(interval: Interval, metric: str) -> dict[str, Any]:
    """The columns difference, low, high and interval. Without scatter the interval says how many seeds there are."""
    digits = 4 if metric == "ssim" else 3
    text = seeds(interval.n)
    if interval.low is not None:
        text = f"[{interval.low:+.{digits}f}, {interval.high:+.{digits}f}] n={interval.n}"
    return {"difference": interval.mean, "low": interval.low, "high": interval.high, "interval": text}


def seeds(n: int) -> str:
    return f"{n} seed{'s' if n > 1 else ''}"


def protocol_text(protocol: Mapping[str, Any]) -> str:
    """A protocol in one line; what does not apply (None) is left out."""
    return ", ".join(f"{name} {value}" for name, value in protocol.items() if value is not None)
