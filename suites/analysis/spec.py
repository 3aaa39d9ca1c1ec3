"""What an analysis is: a question to a network that is answered image by image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import models
from suites.benchmark.plans import parse_variant
from suites.data.degradations import degrade
from suites.data.pictures import DataError
from suites.evaluation.scoring import load_model, read_network
from suites.network_file import NetworkFile, check_own_name
from suites.spec import Protocol, SpecError, Task


@dataclass(frozen=True)
class Pair:
    """An image: lq float32 [H, W, C] in 0..1 is degraded, truth uint8 [sH, sW(, 3)] cropped to fit; sha256: of the
    decoded ground truth."""

    dataset: str
    stem: str
    sha256: str
    lq: np.ndarray
    truth: np.ndarray

    @classmethod
    def load(cls, dataset: Any, stem: str, task: Task, protocol: Protocol) -> "Pair":
        """The image `stem` of a `suites.data.Dataset`. Raises DataError for a picture that is refused."""
        picture = dataset.load(stem)
        try:
            lq, truth = degrade(task, picture.pixels, protocol.lr_route)
        except DataError as error:
            raise DataError(f"{dataset.name}/{stem}: {error}") from None
        return cls(dataset.name, stem, picture.sha256, lq, truth)


@dataclass(frozen=True)
class Context:
    """How to measure. protocol: its `seed` says nothing, seeds does. seeds: of the routing noise, all to be measured
    for this image; (None,) for an analysis that draws nothing. device: where the network is."""

    task: Task
    protocol: Protocol
    device: torch.device
    seeds: tuple[int | None, ...]


@dataclass(frozen=True)
class Measured:
    """rows: the analysis' columns, and `seed` where it draws. arrays: what figures need, by name; names are unique
    within an image, so those of one seed say which."""

    rows: pd.DataFrame
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """A question to a network.

    name: of the command. question: in words. measure: (network, pair, context) -> Measured, called once per image with
    all seeds that are wanted; it leaves the network as it was. columns: what every column of the rows holds, with its
    unit. parameters: JSON-able, all that the answer depends on beside network, set and protocol. draws: whether the
    answer depends on the seed of the routing noise.
    """

    name: str
    question: str
    measure: Callable[[nn.Module, Pair, Context], Measured]
    columns: Mapping[str, str]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    draws: bool = True


@dataclass(frozen=True)
class Subject:
    """The network that is asked: model (a catalogue name, overrides after it), or `network`: an official option file
    or a class in a user's file. weights: a file, or None for the initial values of seed 0."""

    model: str
    task: Task
    weights: Path | None
    network: Path | NetworkFile | None = None
    backend: str = "auto"
    device: str = "cpu"

    def load(self, protocol: Protocol) -> tuple[nn.Module, Protocol]:
        """As `scoring.load_model`. Raises SpecError, ModelError."""
        name, overrides = self.parsed()
        options = {"network": self.network, "backend": self.backend, "device": self.device}
        if self.weights is not None:
            return load_model(name, self.task, self.weights, protocol, overrides=overrides, **options)
        if self.network is not None:
            raise SpecError(f"{self.model} needs --weights: --untrained is for networks of the catalogue")
        model = models.build(name, **{**self.task.network, **overrides}, backend=self.backend)
        for setting in models.capabilities_of(model).settings:
            setattr(model, setting, getattr(protocol, setting))
        return model.to(self.device).eval(), protocol

    def parsed(self) -> tuple[str, dict[str, Any]]:
        """Catalogue name and overrides; the name alone where an option file says the network."""
        return (self.model, {}) if self.network is not None else parse_variant(self.model, self.task)

    def key(self) -> dict[str, Any]:
        """`model` and `overrides` as an evaluation record has them."""
        name, overrides = self.parsed()
        if isinstance(self.network, NetworkFile):
            check_own_name(name)
            return {"model": name, "overrides": self.network.key(), "task": self.task.name}
        own = {"network_g": read_network(self.network)} if self.network else {**self.task.network, **overrides}
        return {"model": name, "overrides": own, "task": self.task.name}
