"""What an experiment puts in the place of a trained network's routing and order, to see what they are worth."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from models.errors import ModelError


@dataclass(frozen=True)
class Experiment:
    """classes: called with (layer, the router's classes int64 [B, L]), gives those that are used instead.
    order: called with (layer, sort key int64 [B, L], H, W), gives the pixel (raster number) that the layer's one scan
    visits at every step, int64 [B, L], a permutation. None: as the network does.
    """

    classes: Callable[[int, Tensor], Tensor] | None = None
    order: Callable[..., Tensor] | None = None

    def on(self, config: Any, compiled: bool, height: int, width: int) -> "Experiment":
        """The same for tokens of this size, which `order` is told from then on.

        Raises ModelError where layers are compiled, nothing is routed, or there is not one direction to be ordered.
        """
        if compiled:
            raise ModelError("compiled layers take no experiment: set compiled = False")
        if not config.routed or (self.order is not None and config.scans != 1):
            raise ModelError(
                "an experiment replaces the classes of routed pixels, or their order in one scan: this network has "
                f"ase {config.ase!r}, sgn {config.sgn!r} and {config.scans} scans"
            )
        order = None if self.order is None else partial(self.order, height=height, width=width)
        return Experiment(self.classes, order)
