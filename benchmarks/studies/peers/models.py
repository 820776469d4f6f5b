"""The residual networks for CIFAR of 6n + 2 layers.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2016, section 4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

WIDTHS = (16, 32, 64)
_LAYERS_A_BLOCK = 2


class CifarResNet(nn.Module):
    """A convolution, three stages of n blocks at 32, 16 and 8 pixels, global average, one linear layer.

    Raises:
        ValueError: the depth is not 6n + 2 with n at least 1.
    """

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, _LAYERS_A_BLOCK * len(WIDTHS))
        if blocks < 1 or rest:
            raise ValueError(f"the depth must be 8, 14, 20, ... (6n + 2), got {depth}")
        self.stem = nn.Sequential(*_convolution(3, WIDTHS[0], stride=1), nn.ReLU(inplace=True))
        stages: list[nn.Module] = []
        channels = WIDTHS[0]
        for width in WIDTHS:
            for number in range(blocks):
                stages.append(Block(channels, width, stride=2 if number == 0 and width != WIDTHS[0] else 1))
                channels = width
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        features = self.stages(self.stem(images))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters: every stride-th pixel, new channels zero (option A)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, width - channels
        self.body = nn.Sequential(
            *_convolution(channels, width, stride), nn.ReLU(inplace=True), *_convolution(width, width, stride=1)
        )

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch width h w"]:
        """relu(body + shortcut)."""
        shortcut = x
        if self.added:
            shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return functional.relu(self.body(x) + shortcut, inplace=True)


def _convolution(channels: int, width: int, stride: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return convolution, nn.BatchNorm2d(width)
