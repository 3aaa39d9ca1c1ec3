"""What a network can do beyond `network(image)`: declared by the network, never probed by those who use it."""

from dataclasses import dataclass

from torch import nn

from models.errors import ModelError


@dataclass(frozen=True)
class Capabilities:
    """What a network declares as its property `capabilities`. The defaults are those of a plain nn.Module.

    settings: those of "routing" and "prompt_order" that it has as attributes, to be set as a protocol says.
    routed: it draws routing noise from its attribute `noise`, a source called with (layer, (B, L, T)).
    experiments: it has an attribute `experiment`, a models.Experiment or None, which replaces its classes or its order.
    classes: it is called with (image, labels), and sorts by labels int64 [B, H, W] in 0..classes-1; None: it does not.
    compiles: torch.compile makes its layers while its attribute `compiled` is set.
    recordable: where its attribute `backend` (of the scan) means Triton kernels, a CUDA graph repeats its forward.
    stochastic_depth: it draws from PyTorch's own generator in training, so no CUDA graph can repeat a step.
    multiple: it pads height and width to multiples of this.
    upscale: height of its output over that of its input; channels: of both. None: not known before it is run.
    """

    settings: tuple[str, ...] = ()
    routed: bool = False
    experiments: bool = False
    classes: int | None = None
    compiles: bool = False
    recordable: bool = False
    stochastic_depth: bool = False
    multiple: int = 1
    upscale: int | None = None
    channels: int | None = None


def capabilities_of(network: nn.Module) -> Capabilities:
    """What `network` declares; the defaults where it declares nothing. Raises ModelError for another kind of value."""
    declared = getattr(network, "capabilities", Capabilities())
    if not isinstance(declared, Capabilities):
        raise ModelError(
            f"{type(network).__name__}.capabilities must be a models.Capabilities, not {type(declared).__name__}"
        )
    return declared
