"""Networks whose timings are published for servers and boards, built again: they tie this machine to those tables."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgedistill.prediction.networks import Fork, Network, Skip, conv

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 224
"""Height and width of the images."""


def mobilenet() -> nn.Module:
    """MobileNet V1 at full width. Source: arXiv 1704.04861, table 1."""
    widths = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    layers = [conv(3, 32, 3, 2)]
    for (cin, cout), stride in zip(pairwise(widths), strides, strict=True):
        layers += [conv(cin, cin, 3, stride, cin), conv(cin, cout, 1)]
    return Network(nn.Sequential(*layers), 1024, 1000)


def mobilenet_v2() -> nn.Module:
    """MobileNet V2, whose first block expands by 1, as it was published. Source: arXiv 1801.04381, table 2."""
    stages = (
        (6, 24, 3, 2, 2),
        (6, 32, 3, 3, 2),
        (6, 64, 3, 4, 2),
        (6, 96, 3, 3, 1),
        (6, 160, 3, 3, 2),
        (6, 320, 3, 1, 1),
    )
    first = _inverted(32, 16, 3, 1, 1)
    return Network(nn.Sequential(conv(3, 32, 3, 2), first, *_stages(16, stages), conv(320, 1280, 1)), 1280, 1000)


def mnasnet() -> nn.Module:
    """MnasNet-B1, without squeeze and excitation. Source: arXiv 1807.11626."""
    stages = (
        (3, 24, 3, 3, 2),
        (3, 40, 5, 3, 2),
        (6, 80, 5, 3, 2),
        (6, 96, 3, 2, 1),
        (6, 192, 5, 4, 2),
        (6, 320, 3, 1, 1),
    )
    first = nn.Sequential(conv(32, 32, 3, 1, 32), _linear(32, 16))
    return Network(nn.Sequential(conv(3, 32, 3, 2), first, *_stages(16, stages), conv(320, 1280, 1)), 1280, 1000)


def resnet50() -> nn.Module:
    """ResNet-50 with its strides in the first 1x1 convolution of a block. Source: arXiv 1512.03385, table 1."""
    layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    cin = 64
    for width, count, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            stride = first if number == 0 else 1
            body = nn.Sequential(conv(cin, width, 1, stride), conv(width, width), _linear(width, 4 * width))
            skip = nn.Identity() if number else _linear(cin, 4 * width, stride)
            layers.append(nn.Sequential(_Sum(body, skip), nn.ReLU()))
            cin = 4 * width
    return Network(nn.Sequential(*layers), 2048, 1000)


def googlenet() -> nn.Module:
    """GoogLeNet without its auxiliary classifiers. Source: arXiv 1409.4842, table 1."""
    pool, norm = nn.MaxPool2d(3, 2, ceil_mode=True), nn.LocalResponseNorm(5)
    stages = (
        ((192, 64, 96, 128, 16, 32, 32), (256, 128, 128, 192, 32, 96, 64)),
        (
            (480, 192, 96, 208, 16, 48, 64),
            (512, 160, 112, 224, 24, 64, 64),
            (512, 128, 128, 256, 24, 64, 64),
            (512, 112, 144, 288, 32, 64, 64),
            (528, 256, 160, 320, 32, 128, 128),
        ),
        ((832, 256, 160, 320, 32, 128, 128), (832, 384, 192, 384, 48, 128, 128)),
    )
    layers: list[nn.Module] = [conv(3, 64, 7, 2), pool, norm, conv(64, 64, 1), conv(64, 192), norm]
    for stage in stages:
        layers += [pool, *(_inception(*widths) for widths in stage)]
    return Network(nn.Sequential(*layers), 1024, 1000)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet": mobilenet,
    "mobilenet_v2": mobilenet_v2,
    "mnasnet": mnasnet,
    "resnet50": resnet50,
    "googlenet": googlenet,
}
"""By their names in ncnn's benchmark."""


class _Sum(nn.Module):
    """Two bodies on one input, added."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.one(x) + self.other(x)
        return total


def _linear(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    """A 1x1 convolution with its normalisation and no activation."""
    return nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))


def _inverted(cin: int, cout: int, kernel: int, stride: int, expand: int) -> nn.Module:
    inner = expand * cin
    body = nn.Sequential(conv(cin, inner, 1), conv(inner, inner, kernel, stride, inner), _linear(inner, cout))
    return Skip(body) if cin == cout and stride == 1 else body


def _stages(cin: int, stages: tuple[tuple[int, int, int, int, int], ...]) -> list[nn.Module]:
    """Inverted residuals; a stage: expansion, channels, kernel, blocks, stride of the first."""
    layers = []
    for expand, cout, kernel, count, stride in stages:
        for number in range(count):
            layers.append(_inverted(cin, cout, kernel, 1 if number else stride, expand))
            cin = cout
    return layers


def _inception(cin: int, one: int, less3: int, three: int, less5: int, five: int, pooled: int) -> nn.Module:
    wide = nn.Sequential(conv(cin, less3, 1), conv(less3, three))
    wider = nn.Sequential(conv(cin, less5, 1), conv(less5, five, 5))
    pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(cin, pooled, 1))
    return Fork(Fork(conv(cin, one, 1), wide), Fork(wider, pool))
