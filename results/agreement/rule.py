"""The rule by which rows join those that are stored: one image has one score on one machine by one commit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from results.agreement import limits
from results.records import SCORES, StoreError


@dataclass(frozen=True)
class Comparison:
    """What of `new` is not in `old`. fresh: rows of images that it does not hold. differing: rows of images that it
    holds with another score, within the limit between their machines. conflicts: a sentence for every image that the
    two contradict."""

    fresh: pd.DataFrame
    differing: pd.DataFrame
    conflicts: list[str]


def compare(old: pd.DataFrame, new: pd.DataFrame, protocol: Mapping[str, Any] | None = None) -> Comparison:
    """Rows of `new` against those of `old`, each image by its (dataset, stem).

    It contradicts when its pixels differ, or a score by more than `limits.between` allows; the time it took may
    differ. protocol: of both. Without it, or where rows do not say their machine (`other_machines.with_machine`),
    both count as of one machine. Rows repeated inside `new` are compared in the same way.
    """
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in old.to_dict("records"):
        seen.setdefault((row["dataset"], row["image"]), []).append(row)
    fresh, differing, conflicts = [], [], []
    for index, row in enumerate(new.to_dict("records")):
        known = seen.setdefault((row["dataset"], row["image"]), [])
        found = [_against(one, row, protocol or {}) for one in known]
        sentence = next((said for said in found if isinstance(said, str)), None)
        if sentence is not None:
            conflicts.append(f"{row['dataset']}/{row['image']} {sentence}")
        elif not known:
            fresh.append(index)
            known.append(row)
        elif not any(found):
            differing.append(index)
            known.append(row)
    return Comparison(new.iloc[fresh], new.iloc[differing], conflicts)


def _against(known: Mapping[str, Any], row: Mapping[str, Any], protocol: Mapping[str, Any]) -> bool | str:
    """Whether `row` says what `known` says: True; False where it differs within the limit; else what is wrong."""
    if known["pixels"] != row["pixels"]:
        return f"is another picture here ({str(known['pixels'])[:8]}, not {str(row['pixels'])[:8]})"
    limit, equal = limits.between(known, row, protocol), True
    for score in SCORES:
        here, there = known.get(score), row.get(score)
        gap = _gap(here, there)
        if gap > limit.of(score):
            told = f"has {score} {_digits(here)} here, not {_digits(there)}"
            if limits.same(known, row):
                return told
            here, there = _named(known), _named(row)
            return f"{told} (by {here} here, {there} there; at most {limit.of(score):.2g} apart: {limit.why})"
        equal = equal and gap <= limits.EXACT
    return equal


def _named(machine: Mapping[str, Any]) -> str:
    """ "cpu on AMD EPYC, torch 2.13.0, triton 3.9.0, commit 0123abcd"."""
    versions = "".join(f", {name} {machine[name]}" for name in ("torch", "triton") if machine.get(name))
    commit = str(machine.get("commit"))[:8]
    return f"{machine.get('backend') or 'no backend'} on {machine.get('device')}{versions}, commit {commit}"


def _gap(a: Any, b: Any) -> float:
    if pd.isna(a) or pd.isna(b):
        return 0.0 if pd.isna(a) and pd.isna(b) else float("inf")
    return abs(a - b)


def _digits(score: Any) -> str:
    return "none" if pd.isna(score) else f"{score:.7g}"


def merge_rows(old: pd.DataFrame, new: pd.DataFrame, where: str) -> pd.DataFrame:
    """Union of both, as of one machine. Raises StoreError when the same image has another score; nothing is changed
    then."""
    found = compare(old, new)
    if found.conflicts:
        raise StoreError(contradiction(where, found.conflicts))
    return pd.concat([old, found.fresh], ignore_index=True) if len(old) else found.fresh.reset_index(drop=True)


def contradiction(where: str, conflicts: list[str]) -> str:
    """The first three of `conflicts` in a sentence."""
    more = f" and {len(conflicts) - 3} more" if len(conflicts) > 3 else ""
    return f"{where} contradicts what is stored: {'; '.join(conflicts[:3])}{more}. Nothing was changed."
