"""Operators of the networks: each a folder with the function, its definition in PyTorch and its kernels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["attention", "conv3x3", "depthwise", "fusion", "linear", "native", "noise", "norm", "routing", "scan"],
)
