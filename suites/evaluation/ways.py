"""The ways in which a suite scores a cell: which weights, with which seed of the routing noise, filed where.

A cell's folder keeps, in addition to its last weights and their scores (weights.safetensors, scores.parquet):

    half.safetensors, average.safetensors, weights-<iteration>.safetensors     what `Scoring.weights` names
    scores-<half|average|last>-<seed>.parquet                                  their scores under every seed
    scores-<iteration>.parquet, scores-<iteration>-<seed>.parquet              under the protocol's seed, and others

The last weights under the protocol's own seed are the cell's own table, scores.parquet.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from results import records
from suites.spec import Cell, Scoring, SpecError

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

LAST = "last"


class Way(NamedTuple):
    """weights: "last", or a name of `Scoring.weights`. seed: of the routing noise."""

    weights: str
    seed: int

    def __str__(self) -> str:
        named = f"iteration {self.weights}" if self.weights.isdecimal() else f"{self.weights} weights"
        return f"{named}, noise {self.seed}"


def own(cell: Cell) -> Way:
    """What makes a cell done: its last weights under its own protocol."""
    return Way(LAST, cell.protocol.seed)


def ways(cell: Cell, scoring: Scoring) -> list[Way]:
    """All of them, the cell's own first."""
    seeds = scoring.noise_seeds or (cell.protocol.seed,)
    names = (LAST, *scoring.weights(cell.budget))
    return list(dict.fromkeys([own(cell), *(Way(name, seed) for name in names for seed in seeds)]))


def weights_path(folder: Path, weights: str) -> Path:
    if weights == LAST:
        return folder / "weights.safetensors"
    return folder / (f"weights-{weights}.safetensors" if weights.isdecimal() else f"{weights}.safetensors")


def scores_path(folder: Path, cell: Cell, way: Way) -> Path:
    if way == own(cell):
        return folder / "scores.parquet"
    if way.weights.isdecimal() and way.seed == cell.protocol.seed:
        return folder / f"scores-{way.weights}.parquet"
    return folder / f"scores-{way.weights}-{way.seed}.parquet"


def unscored_ways(folder: Path, cell: Cell, scoring: Scoring) -> list[Way]:
    """The ways, apart from the cell's own, in which it is not scored yet."""
    return [way for way in ways(cell, scoring)[1:] if not scores_path(folder, cell, way).exists()]


def scored_network(cell: Cell, backend: str, own: Path | None = None) -> "nn.Module":
    """The cell's network as its protocol scores it: it may have trained with another routing, never another order.

    own: as of `suites.variant.build`. Raises SpecError for another order, and for an argument that the network does
    not know.
    """
    import models
    from suites import variant

    routing = {} if cell.protocol.routing is None else {"routing": cell.protocol.routing}
    try:
        model = variant.build(cell.variant, cell.task, own=own, backend=backend, **routing)
    except TypeError as error:
        raise SpecError(f"{cell.name}: {error}") from error
    if cell.variant.source is not None:
        for setting in models.capabilities_of(model).settings:
            setattr(model, setting, getattr(cell.protocol, setting))
    expected = cell.protocol.prompt_order
    if "prompt_order" in models.capabilities_of(model).settings and model.prompt_order != expected:
        raise SpecError(f"{cell.name}: the network has prompt_order {model.prompt_order!r}, its protocol {expected!r}")
    return model


def draws_noise(network: "nn.Module", cell: Cell) -> bool:
    """Whether a score of the cell depends on the seed of the routing noise: MambaIR, for one, has no router."""
    import models

    return cell.protocol.routing == "gumbel" and models.capabilities_of(network).routed


def to_score(folder: Path, cell: Cell, scoring: Scoring, own_too: bool = False, noisy: bool = True) -> list[Way]:
    """The ways in which it is not scored yet and whose weights were kept, the cell's own first where `own_too`.

    A network that draws no noise (not `noisy`) is scored once, by the protocol's seed, which counts for every seed.
    """
    wanted = [*([own(cell)] if own_too else []), *unscored_ways(folder, cell, scoring)]
    if not noisy:
        wanted = list(dict.fromkeys(way._replace(seed=cell.protocol.seed) for way in wanted))
    return [way for way in wanted if weights_path(folder, way.weights).exists()]


@dataclass(frozen=True)
class Machine:
    """How a process scores: none of it is part of a score's key. own: the file of variants that are a class in one."""

    device: str
    data: Path | None
    backend: str = "auto"
    deterministic: bool = True
    own: Path | None = None


def score_way(
    root: Path,
    cell: Cell,
    way: Way,
    scoring: Scoring,
    machine: Machine,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> "pd.DataFrame":
    """Scores a cell of the store at `root` in one way and files the rows, which are returned.

    What is in the cell's own table is not scored again; every other file is written once it is whole. progress:
    (dataset, done, total, stem). Raises what `filing.score_set` tells, and as `scored_network`.
    """
    import pandas as pd

    import models
    from results.store import Store
    from suites.data import find_all
    from suites.evaluation.filing import NOWHERE, cell_target, score_set
    from suites.training.step import determinism

    store = Store(root)
    folder = store.cell_folder(cell.config())
    with determinism(True) if machine.deterministic else nullcontext():
        model = scored_network(cell, machine.backend, machine.own)
        models.load_weights(model, weights_path(folder, way.weights))
        model.to(machine.device).eval()
        protocol, last = replace(cell.protocol, seed=way.seed), way.weights == LAST
        target = cell_target(store, folder) if way == own(cell) else NOWHERE
        frames = []
        for dataset in find_all(cell.test_sets if last else scoring.sets_of(cell), machine.data):
            told = progress and (lambda *values, name=dataset.name: progress(name, *values))
            options = {"device": machine.device, "labels": cell.variant.labels, "progress": told}
            frames.append(score_set(model, cell.task, dataset, protocol, target, **options).checked())
    frame = pd.concat(frames, ignore_index=True)
    for seed in {way.seed} if draws_noise(model, cell) else {way.seed, *scoring.noise_seeds}:
        if (same := way._replace(seed=seed)) != own(cell):
            records.write_frame(scores_path(folder, cell, same), frame)
    return frame
