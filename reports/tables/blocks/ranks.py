"""Best and second best of a column."""

from typing import Any

import pandas as pd


def ranked(values: dict[Any, float | None], digits: int = 4) -> dict[Any, str]:
    """Best and second best, the larger the better; equals (as they are printed) share their mark.

    A column of two has no ranks, nor has one of equals.
    """
    known = {name: round(value, digits) for name, value in values.items() if value is not None and not pd.isna(value)}
    if len(known) < 3 or len(set(known.values())) < 2:
        return {}
    ranks = dict(zip(sorted(set(known.values()), reverse=True), ("best", "second"), strict=False))
    return {name: ranks.get(value, "") for name, value in known.items()}
