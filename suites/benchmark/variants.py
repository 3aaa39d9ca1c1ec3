"""A network as typed: a catalogue name, overrides after it, such as "mambairv2-light scans=2 ffn=conv"."""

from typing import Any

import models
from results.published import parse_overrides
from suites.spec import SpecError, Task


def parse_variant(text: str, task: Task) -> tuple[str, dict[str, Any]]:
    """(catalogue name, overrides) of a network that exists for `task`.

    Raises SpecError for something that is not NAME=VALUE and for an unknown argument, ModelError for an unknown name
    or a value that no network has.
    """
    name, *changes = text.split() or [""]
    if not all("=" in change for change in changes):
        raise SpecError(f"{text!r}: write overrides as NAME=VALUE after the model, separated by spaces")
    overrides = parse_overrides(" ".join(changes))
    try:
        models.configure(name, **{**task.network, **overrides})
    except TypeError as error:
        raise SpecError(f"{text!r}: {error}") from error
    return name, overrides
