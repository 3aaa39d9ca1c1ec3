"""Weights that a user names, as a file or in words: a file is scored first where the store lacks its scores."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from results.evidence import Evidence
from results.store import Store
from suites.spec import Protocol, SpecError, Task


def named(
    text: str,
    store: Store,
    task: str | None,
    sets: Sequence[str],
    *,
    device: str | None = None,
    data: Path | None = None,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> str:
    """The words by which the records of `text` are found: words as they are, "MODEL FILE" or "FILE" as the hash.

    Where nothing is stored or committed of a file's weights on one of `sets` by the official protocol (any seed), all
    of `sets` are scored. Raises SpecError where that needs a network, a task or sets that are not named, or when the
    store refuses a score; otherwise as `scoring.score`.
    """
    model, _, file = ("", "", text) if Path(text).is_file() else text.partition(" ")
    path = Path(file.strip())
    if not file.strip() or not path.is_file():
        return text
    import models

    digest = models.weights_hash(path)
    known = _scored_on(Evidence(store), model, digest, task and Task.parse(task).name)
    if known and known.issuperset(sets):
        return f"{model} {digest}".strip()
    if not (model and task and sets):
        raise SpecError(
            f"{path} has no scores yet{' on ' + ', '.join(sets) if sets else ''}: to score it, name its network "
            f"('mambairv2-light {path}'), --task and --sets"
        )
    from suites.environment import choose_device
    from suites.evaluation import scoring

    parsed = Task.parse(task)
    where = {"store": store, "device": choose_device(device), "data": data, "progress": progress}
    result = scoring.score(model, parsed, sets, scoring.protocol_for(model, parsed), weights=path, **where)
    if result.stopped:
        raise result.stopped
    if result.refused:
        raise SpecError(f"{path}: {'; '.join(result.refused)}")
    return f"{model} {path.name} {digest}"


def _scored_on(evidence: Evidence, model: str, digest: str, task: str | None) -> set[str]:
    """The sets on which the weights were scored in whole by the official protocol; what a network does not have is
    None in its own."""

    def fits(row: dict[str, Any]) -> bool:
        official = {**Protocol.official(Task.parse(row["task"])).to_dict(), "seed": row["protocol"]["seed"]}
        own = all(value in (None, official[name]) for name, value in row["protocol"].items())
        return (
            own and row["complete"] and row["task"] == (task or row["task"]) and row["model"] == (model or row["model"])
        )

    rows = evidence.evaluations[evidence.evaluations["weights"] == digest].to_dict("records")
    return {row["dataset"] for row in rows if fits(row)}
