"""Failed scores other than a cell's own are told with the way, and with where they were raised."""

import math
import traceback

import pytest

from suites.evaluation.ways import Way
from suites.execution.scoring_pool import ScoringPool
from suites.execution.work import _named
from suites.spec import Protocol, SpecError


@pytest.mark.parametrize(
    ("error", "kind"),
    [(SpecError("wrong"), SpecError), (UnicodeDecodeError("utf-8", b"", 0, 1, "five arguments"), RuntimeError)],
)
def test_an_error_is_told_with_its_way_and_where_it_was_raised(error, kind):
    def deep():
        raise error

    try:
        deep()
    except Exception as caught:
        named = _named(Way("half", 3), caught)
    assert type(named) is kind and str(named).startswith("half weights, noise 3: ")
    assert ", in deep" in "".join(traceback.format_exception(named))


def test_of_another_process_too():
    with ScoringPool(1) as pool:
        pool.submit("score", Protocol, "no tiling")
        ((_, future),) = pool.results(math.inf)
    text = "".join(traceback.format_exception(_named(Way("half", 3), future.exception())))
    assert "in __post_init__" in text
