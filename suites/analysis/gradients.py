"""A network as a function of its input alone, to be differentiated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.ops.common.precision import precision
from models.ops.noise import PhiloxGumbel, noise_key
from suites.analysis.recording import draws
from suites.analysis.spec import Context


@contextmanager
def differentiated(
    network: nn.Module, context: Context, seed: int | None, stem: str
) -> Iterator[Callable[[Tensor], Tensor]]:
    """The network with the routing noise of (seed, image, first tile) at every call and for every image of a batch, so
    that it is one function.

    Parameters take no gradient meanwhile. Whole images, not tiles: the input is a crop already. Everything is put back.
    """
    noisy = draws(network)
    before, learning = network.noise if noisy else None, [p for p in network.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)

    def function(x: Tensor) -> Tensor:
        if noisy:
            network.noise = PhiloxGumbel([noise_key(seed or 0, 0, stem, 0)] * len(x))
        return network(x)

    try:
        with torch.enable_grad(), precision(context.protocol.precision, context.device):
            yield function
    finally:
        if noisy:
            network.noise = before
        for parameter in learning:
            parameter.requires_grad_(True)
