"""Networks of other papers from their checkpoints, by spandrel (MIT), which tells the architecture from the tensors.

spandrel needs torchvision, each release of which runs beside one release of PyTorch alone, so it is an extra (`peers`).
"""

from pathlib import Path

from torch import Tensor, nn

import models
from models.checkpoints import read_state
from suites.environment import not_importable
from suites.spec import PEER, SpecError, Task


class Peer(nn.Module):
    """A network of spandrel's as one of ours: [B, C, H, W] in 0..1 -> [B, C, sH, sW] in 0..1, padded as it needs.

    architecture: its name.
    """

    def __init__(self, descriptor: object) -> None:
        super().__init__()
        self.network = descriptor.model  # moved and set to evaluation with this module
        self.architecture = descriptor.architecture.id
        self._call = descriptor
        self.capabilities = models.Capabilities(upscale=descriptor.scale, channels=descriptor.input_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self._call(x)


def load(path: Path, task: Task) -> Peer:
    """The network of a checkpoint, for `task`. Nothing in the file is executed.

    Raises SpecError where spandrel cannot be imported or the network is for another scale or colours, ModelError for
    weights that it does not know, and as `models.checkpoints.read_state`.
    """
    try:
        from spandrel import ImageModelDescriptor, ModelLoader
    except Exception as error:
        raise not_importable(PEER, "peers", error) from error
    state = read_state(path)
    try:
        found = ModelLoader(device="cpu").load_from_state_dict(dict(state))
    except Exception as error:  # whatever its parsers trip over
        raise models.ModelError(f"{path}: {PEER} knows no network of these tensors: {error}") from error
    if not isinstance(found, ImageModelDescriptor):
        raise models.ModelError(f"{path}: {found.architecture.id} takes more than a picture, and is not run here")
    shape = found.scale, found.input_channels, found.output_channels
    if shape != (task.scale, task.channels, task.channels):
        told = f"x{shape[0]}, {shape[1]} channels to {shape[2]}"
        wanted = f"x{task.scale}, {task.channels} to {task.channels}"
        raise SpecError(f"{path} holds a network {found.architecture.id} of {told}: {task.name} needs {wanted}")
    return Peer(found)
