"""A network that is not of the catalogue: EDSR (arXiv 1707.02921), small, as a user would write it."""

import torch
from torch import Tensor, nn


class EDSR(nn.Module):
    def __init__(self, scale: int = 2, dim: int = 8, depth: int = 2) -> None:
        super().__init__()
        conv = [nn.Conv2d(dim, dim, 3, padding=1) for _ in range(2 * depth)]
        self.head, self.body = nn.Conv2d(3, dim, 3, padding=1), nn.ModuleList(conv)
        self.tail = nn.Sequential(nn.Conv2d(dim, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        x = skip = self.head(x)
        for first, second in zip(self.body[::2], self.body[1::2], strict=True):
            x = x + second(torch.relu(first(x)))
        return self.tail(x + skip)
