"""How long, and how many cases: `make fuzz SECONDS=600` shares its seconds among the tests; else each tries a few."""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECONDS, SHARES = float(os.environ.get("FUZZ_SECONDS", "0")), 9  # tests that call `explore`
SAMPLE = 15  # cases of each in a plain run of the tests, the same ones every time


def explore(kind: str, strategy: st.SearchStrategy, check: Callable[[Any], None]) -> None:
    """Calls `check` with values of `strategy` for this test's share of the time. It fails by raising."""
    count, until = 0, time.monotonic() + SECONDS / SHARES
    how = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

    def once(value: Any) -> None:
        nonlocal count
        count += 1
        check(value)

    while True:
        several = {"max_examples": 500} if SECONDS else {"max_examples": SAMPLE, "derandomize": True}
        settings(**how, **several)(given(strategy)(once))()
        if time.monotonic() >= until:
            break
    if path := os.environ.get("FUZZ_LOG"):
        with open(path, "a") as file:
            file.write(json.dumps({"kind": kind, "cases": count, "seconds": SECONDS / SHARES}) + "\n")


def damaged(*contents: bytes) -> st.SearchStrategy[bytes]:
    """One of `contents` with bytes changed, put in or cut off; or bytes that were never any of them."""

    @st.composite
    def change(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(contents)))
        for _ in range(draw(st.integers(0, 4))):
            place = draw(st.integers(0, len(content)))
            match draw(st.sampled_from(["set", "insert", "cut", "repeat"])):
                case "set" if place < len(content):
                    content[place] = draw(st.integers(0, 255))
                case "insert":
                    content[place:place] = draw(st.binary(max_size=16))
                case "cut":
                    del content[place : place + draw(st.integers(0, 64))]
                case "repeat":
                    content[place:place] = content[: draw(st.integers(0, 64))]
        return bytes(content)

    return st.one_of(change(), change(), change(), st.binary(max_size=400))
