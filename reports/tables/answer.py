"""A sentence per set on a variant against the base of its family: what `runner.py run --network` ends with."""

from collections.abc import Iterator, Mapping
from typing import Any

from reports.statistics import verdicts
from reports.tables import trained
from reports.tables.blocks.wording import detectable, number
from results import families
from results.evidence import Evidence


def lines(
    evidence: Evidence, suite: str, family: str, base: Mapping[str, Any], names: tuple[str, str]
) -> Iterator[str]:
    """base: configuration of a cell of the base. names: labels of the variant and of the base within the family."""
    variant, against = names
    study, budget = families.comparison(suite, family, base), base["budget"]["name"]
    for row in trained.rows(budget, evidence, {}):
        if (row["study"], row["method"], row["metric"]) == (study, variant, "psnr"):
            where = f"{variant} against {against}, {row['task']}, budget {budget}, on {row['dataset']}"
            yield f"{where}: {_found(row)}"


def _found(row: Mapping[str, Any]) -> str:
    if row.get("difference") is None:
        return row["verdict"]
    found = f"{number(row['difference'], 'psnr', signed=True)} dB, {row['interval']}: {row['verdict']}"
    if row["verdict"] == verdicts.INCONCLUSIVE and row.get("mde") is not None:
        found += f" (so many seeds find {detectable(row['mde'])} dB; more --seeds find less)"
    return found
