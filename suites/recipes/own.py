"""A user's network beside the base of a suite: trained alike, paired by seed, compared as variants are."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from suites import network_file
from suites.network_file import NetworkFile
from suites.recipes import settings
from suites.spec import Cell, Family, Protocol, SpecError, Suite, Variant

BASE = "base"
FAMILY, ABLATION = "own network", "own network, changed"


def separate(network: Path | None, changes: Sequence[str]) -> tuple[NetworkFile | None, list[str]]:
    """What `--network` names, with its arguments among the `--set` of a run, and the other settings.

    Of the network are `network.KEY=VALUE` and every key that neither budget nor protocol nor the sets have.
    """
    if network is None:
        return None, list(changes)
    theirs, rest = [], []
    for change in changes:
        if change.startswith("network."):
            theirs.append(change.removeprefix("network."))
        else:
            (rest if settings.is_of_the_run(change.partition("=")[0].strip()) else theirs).append(change)
    return network_file.only_class(network, theirs), rest


def beside(suite: Suite, network: NetworkFile, variations: Sequence[str] = ()) -> Suite:
    """Every cell of `suite`, a base, with the class beside it, and the class once more for each of `variations`.

    variations: arguments of the class that are changed together, "depth=4 act=gelu". A class that draws no noise is
    scored by a protocol without. Raises SpecError for a suite without cells, or whose cells start from given weights.
    """
    bases = suite.cells
    if not bases:
        raise SpecError(
            f"{suite.name} has no cell of the name {BASE!r} (with this --only) to put {network.name} beside"
        )
    if any(cell.initial is not None for cell in bases):
        raise SpecError(f"{suite.name} starts from given weights, which {network.name} does not have: choose another")
    network_file.check_own_name(network.name)
    own = [network, *(network.changed(text.split()) for text in variations)]
    settled = settled_by(network)
    cells, families = [], []
    for base in bases:
        beside_it = [_cell(base, one, network, settled) for one in own]
        cells += [base, *beside_it]
        if base.seed == bases[0].seed:
            families.append(_family(FAMILY, f"is {network.name} better than the base?", base, [base, beside_it[0]]))
            if variations:
                question = f"what do its parts gain {network.name}?"
                families.append(_family(ABLATION, question, beside_it[0], beside_it))
    return replace(suite, cells=tuple(cells), families=tuple(families))


def pair(suite: Suite) -> tuple[str, dict[str, Any], tuple[str, str]]:
    """Of what `beside` made: the name of the family, its base's configuration, and what tables call class and base."""
    family = suite.families[0]
    (base, _), (own, _) = family.members
    return family.name, family.base.config(), (own, base)


def settled_by(network: NetworkFile) -> tuple[str, ...]:
    """Those of a protocol's settings that the class has; it is built for this, on the CPU."""
    import models

    return models.capabilities_of(network.build()).settings


def _cell(base: Cell, one: NetworkFile, network: NetworkFile, settled: tuple[str, ...]) -> Cell:
    changed = [f"{key}={value}" for key, value in one.arguments.items() if network.arguments.get(key) != value]
    name = ",".join([network.name, *changed])
    without = {key: None for key in ("routing", "prompt_order") if key not in settled}
    return replace(
        base,
        variant=Variant(name, network.name, one.key()),
        protocol=Protocol(**{**base.protocol.to_dict(), **without}),
    )


def _family(title: str, question: str, base: Cell, members: Sequence[Cell]) -> Family:
    return Family(title, question, base, tuple((label(cell), cell) for cell in members))


def label(cell: Cell) -> str:
    """What tables call a member: the class, what it was built with and the start of the hash of its source."""
    variant = cell.variant
    if variant.source is None:
        return variant.model
    told = [f"{key}={value}" for key, value in variant.overrides["arguments"].items()]
    return " ".join([variant.model, *told, f"({variant.source[:8]})"])
