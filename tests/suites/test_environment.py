"""What a record says of the process that made it."""

import sys
from pathlib import Path

import pytest

from suites import environment


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            environment.__file__.replace("environment", "execution/engine"),
            "python -m suites.execution.engine x --data 'a b'",
        ),
        ("/somewhere/runner.py", "runner.py x --data 'a b'"),
        (str(Path(sys.prefix) / "bin" / "pytest"), "pytest x --data 'a b'"),
    ],
)
def test_a_command_is_one_that_can_be_typed(monkeypatch, program, said):
    monkeypatch.setattr(sys, "argv", [program, "x", "--data", "a b"])
    assert environment.command() == said
