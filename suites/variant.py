"""A variant as a network: one of the catalogue, or the class in the file that a user named for it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from suites.network_file import NetworkFile
from suites.spec import SpecError, Task, Variant

if TYPE_CHECKING:
    from torch import nn


def build(
    variant: Variant, task: Task, *, own: Path | None = None, seed: int = 0, backend: str = "auto", **changes: Any
) -> "nn.Module":
    """The network. own: the file of a variant that is a class in one; it is run. seed: of its initial values, which a
    network of the catalogue gets from `models.initialise`. changes: further arguments of one of the catalogue.

    Raises SpecError where the file is needed and not named, or is another than the one that the variant names by its
    hash; ModelError and TypeError as `models.build`.
    """
    if variant.source is None:
        import models

        return models.build(variant.model, **{**task.network, **variant.overrides, **changes}, backend=backend)
    file = NetworkFile(_named(variant, own), variant.overrides["class"], variant.overrides["arguments"])
    return file.build(seed, variant.source)


def check(variant: Variant, own: NetworkFile | None) -> None:
    """Raises SpecError unless `own` names the file and the class of such a variant; nothing is run."""
    path = _named(variant, own and own.path)
    named, wanted = own.key(), variant.overrides
    if (named["class"], named["source"]) != (wanted["class"], wanted["source"]):
        raise SpecError(
            f"{variant.name} is {wanted['class']} of a file with the hash {wanted['source'][:8]}, "
            f"and {path}:{own.name} has {named['source'][:8]}: name the file as it was"
        )


def _named(variant: Variant, own: Path | None) -> Path:
    if own is None:
        name = variant.overrides["class"]
        raise SpecError(
            f"{variant.name} is the class {name} in a file (source {variant.source[:8]}), and a store holds no code: "
            f"name the file again with --network FILE.py:{name}"
        )
    return own
