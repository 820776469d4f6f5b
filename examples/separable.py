"""A student that calibration serves badly: the channels of its tensors have very different ranges."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Separable(nn.Module):
    """Depthwise separable blocks; `spread` times the gains of batch norm, undone by the layer behind.

    The function is that of an ordinary network; one range for all channels fits none of them. Training, pruning and
    equalisation that went wrong leave such channels behind; here they are made.
    """

    def __init__(self, width: int = 16, spread: float = 20.0, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.first, self.second = _block(width, 2 * width, 2), _block(2 * width, 2 * width, 1)
        self.head = nn.Linear(2 * width, classes)
        chance = torch.Generator().manual_seed(0)
        gain = torch.ones(1)
        for layer in [*self.stem, *self.first, *self.second, self.head]:
            if isinstance(layer, nn.BatchNorm2d):
                gain = torch.exp((2 * torch.rand(layer.num_features, generator=chance) - 1) * math.log(spread))
                layer.weight.data *= gain
            elif isinstance(layer, nn.Conv2d) and layer.groups == 1:
                layer.weight.data /= gain.reshape(1, -1, 1, 1)
            elif isinstance(layer, nn.Linear):
                layer.weight.data /= gain

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.second(self.first(self.stem(image))).mean((2, 3)))
        return logits


def _block(channels: int, wide: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
    )
