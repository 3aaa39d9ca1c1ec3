"""A network that is a class in a user's Python file: `--network path/to/file.py:Class`, arguments by `--set`.

Building it runs the file, so only what was typed on the command line becomes a `NetworkFile`; records hold the hash of
the source, never its text or where it lies.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.published import parse_overrides
from suites import user_file
from suites.spec import BASELINES, PEER, SpecError

if TYPE_CHECKING:
    from torch import nn

_NAMED = re.compile(r"(?P<path>.+\.py):(?P<name>\w+)")
FAMILY = "mambair"  # names of the catalogue start with it


@dataclass(frozen=True)
class NetworkFile:
    """The class `name` in the file `path`: any nn.Module, [B, C, H, W] in 0..1 -> [B, C, sH, sW]. What else it can do
    it declares as other networks do (`models.capabilities`). arguments: keywords that it is built with."""

    path: Path
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def label(self) -> str:
        """The class and its arguments: "EDSR dim=8"."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.arguments.items())])

    def changed(self, changes: Sequence[str]) -> "NetworkFile":
        """The same class with some arguments changed: "dim=48", .... Raises SpecError for what is not KEY=VALUE."""
        return replace(self, arguments={**self.arguments, **_arguments(self.name, changes)})

    def build(self, seed: int = 0, source: str | None = None) -> "nn.Module":
        """Runs the file and builds the network, with the initial values that PyTorch's generator gives for `seed`.

        source: the hash that the file must have. Raises SpecError, before it is run, when it has another, and with what
        went wrong for what is no network.
        """
        import torch
        from torch import nn

        label = f"{self.path}:{self.name}"
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = getattr(user_file.run(self.path, source), self.name)(**self.arguments)
        except SpecError:
            raise
        except Exception as error:  # whatever a user's code raises
            raise SpecError(f"{label} cannot be built: {type(error).__name__}: {error}") from error
        if not isinstance(network, nn.Module):
            raise SpecError(f"{label} makes a {type(network).__name__}, not a torch.nn.Module")
        network.register_forward_pre_hook(_contiguous)
        return network

    def key(self) -> dict[str, Any]:
        """What stands for it in the key of a record, in the place of a catalogue network's arguments.

        source: SHA-256 of the file alone; what it imports is not in it. Raises SpecError when it cannot be read.
        """
        return {"class": self.name, "source": user_file.source_of(self.path), "arguments": dict(self.arguments)}


def _contiguous(_: "nn.Module", inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Pictures come channels last and as parts of others, which a forward with `x.view(...)` does not take."""
    return tuple(x.contiguous() for x in inputs)


def given(network: Path | None, changes: Sequence[str] | None = None) -> "Path | NetworkFile | None":
    """What `--network` names: a `NetworkFile` for file.py:Class, an option file as it is. changes: those of `--set`.

    Raises SpecError for a Python file without a class, for `--set` without one, and for what is not KEY=VALUE.
    """
    match = _NAMED.fullmatch(str(network)) if network is not None else None
    if match is None:
        if network is not None and network.suffix == ".py":
            raise SpecError(f"--network {network}: name the class in it, {network}:Class")
        if changes:
            raise SpecError(
                f"--set {changes[0]}: it is for the arguments of --network FILE.py:Class, which is not there"
            )
        return network
    return NetworkFile(Path(match["path"]), match["name"], _arguments(match["name"], changes or ()))


def _arguments(name: str, changes: Sequence[str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not (equals and key.isidentifier()):
            raise SpecError(f"{change}: write KEY=VALUE, an argument of {name}")
        arguments |= parse_overrides(change) if len(change.split()) == 1 else {key: value}
    return arguments


def only_class(network: Path | None, changes: Sequence[str] | None = None) -> NetworkFile | None:
    """As `given`, where an option file says nothing: raises SpecError for one."""
    found = given(network, changes)
    if isinstance(found, Path):
        raise SpecError(
            f"--network {network}: here it takes FILE.py:Class only; name a catalogue network with overrides"
        )
    return found


def check_own_name(name: str) -> None:
    """Raises SpecError for a name by which tables would take a user's network for one of the catalogue."""
    if name.startswith(FAMILY) or name in (*BASELINES, PEER):
        raise SpecError(f"{name!r} names a network of the catalogue or a baseline: call yours by a name of its own")
