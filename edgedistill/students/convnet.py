"""A small convolutional family with width and depth, made of what every edge runtime has in int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float


class ConvNet(nn.Module):
    """`depth` blocks of 3x3 convolution, batch norm and ReLU; global average pooling; a linear classifier.

    The first block keeps the resolution and has `width` channels; each further block halves the resolution
    and doubles the channels. Batch norm follows every convolution, so it folds away on export.
    """

    def __init__(self, channels: int, classes: int, *, width: int, depth: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for block in range(depth):
            wide = width * 2**block
            stride = 1 if block == 0 else 2
            blocks += [
                nn.Conv2d(channels, wide, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
            ]
            channels = wide
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        logits: Tensor = self.classifier(self.features(image).mean(dim=(2, 3)))
        return logits
