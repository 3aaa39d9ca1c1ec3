"""Weights that cells start from: kept once in a store by their hash, and loaded strictly but for what a cell names.

    <store>/initial/<SHA-256 of the tensors>.safetensors

A cell's configuration holds the hash alone (`suites.spec.Initial`), so that no path of a machine is part of what is
measured, and a cell that is interrupted finds its weights where it lies.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

import models
from models.checkpoints import read_state
from results import records
from suites.spec import Initial, SpecError

FOLDER = "initial"


def path(store: Path, weights: str) -> Path:
    """Where a store keeps the weights of this hash."""
    return store / FOLDER / f"{weights}.safetensors"


def keep(store: Path, file: Path) -> str:
    """Copies the tensors of a file of weights into the store, where they are not there yet; returns their hash.

    Raises OSError and ModelError as `models.checkpoints.read_state`, StoreError when the store cannot be written.
    """
    state = read_state(file)
    weights = models.weights_hash(state)
    if not (target := path(store, weights)).exists():
        with records.guarded(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        content = {name: tensor.contiguous().clone() for name, tensor in state.items()}  # none shares its memory
        records.write_bytes(target, safetensors.torch.save(content))
    return weights


def read(store: Path, initial: Initial) -> dict[str, Tensor]:
    """The tensors that a cell of this store starts from.

    Raises SpecError when they are not there or, by their hash, others; ModelError when the file is damaged.
    """
    if initial.weights is None:
        raise SpecError("it starts from weights that were not named: give their file with --init FILE")
    file = path(store, initial.weights)
    try:
        state = read_state(file)
    except FileNotFoundError:
        raise SpecError(
            f"it starts from the weights {initial.weights[:16]}, which this store does not have: "
            "name their file with --init FILE"
        ) from None
    if (found := models.weights_hash(state)) != initial.weights:
        raise SpecError(f"{file} holds the weights {found[:16]}: remove it, and name the right file with --init FILE")
    return state


def load(model: nn.Module, state: Mapping[str, Tensor], initial: Initial) -> None:
    """Puts `state` into `model`, but for what `initial` leaves new or out.

    Raises SpecError for a glob that fits no tensor, and ModelError as `models.load_weights` when anything else is
    missing, unexpected or of another shape.
    """
    own = model.state_dict()
    new = _fitting(initial.new, own, "the network", "--init-new")
    left_out = _fitting(initial.without, state, "the file", "--init-without")
    taken = {name: tensor for name, tensor in state.items() if name not in left_out and name not in new}
    models.load_weights(model, taken | {name: own[name] for name in new})


def _fitting(globs: tuple[str, ...], tensors: Mapping[str, Tensor], whose: str, option: str) -> set[str]:
    found: set[str] = set()
    for glob in globs:
        fits = {name for name in tensors if fnmatchcase(name, glob)}
        if not fits:
            raise SpecError(f"{option} {glob!r} fits no tensor of {whose} (globs: '*.route.*', '*.embeddingA.weight')")
        found |= fits
    return found
