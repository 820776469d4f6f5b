"""Networks generated to calibrate a board with: each kind of layer, in small and large, nothing trained."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

FEW = ("depthwise-160", "residual-96", "inverted-128")
"""Those three that a few-shot calibration measures."""


class Skip(nn.Module):
    """A body whose output is added to its input."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add."""
        total: torch.Tensor = x + self.body(x)
        return total


class Fork(nn.Module):
    """Two bodies on one input, their channels side by side."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Concatenate."""
        return torch.cat([self.one(x), self.other(x)], 1)


class Gate(nn.Module):
    """Squeeze and excitation: channels weighted by what they hold on average."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weight."""
        mean = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))


class Network(nn.Module):
    """Features, a global average, one dense layer."""

    def __init__(self, features: nn.Module, channels: int, classes: int = 100) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(channels, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        pooled = nn.functional.adaptive_avg_pool2d(self.features(image), 1)
        return self.head(pooled.flatten(1))  # type: ignore[no-any-return]  # torch's modules return Any


def conv(cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, its normalisation and its activation."""
    body = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(body, nn.BatchNorm2d(cout), nn.ReLU())


def plain(widths: tuple[int, ...]) -> nn.Module:
    """3x3 convolutions, every other one with stride 2."""
    steps = pairwise((3, *widths))
    return Network(
        nn.Sequential(*(conv(a, b, 3, 2 if n % 2 == 0 else 1) for n, (a, b) in enumerate(steps))), widths[-1]
    )


def depthwise(width: int, kernel: int = 3, *, gate: bool = False) -> nn.Module:
    """Depthwise and 1x1 convolutions in turn, as in MobileNetV1; with `gate`, weighted channels."""
    layers, channels = [conv(3, width, 3, 2)], width
    for out, stride in ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), (16, 1)):
        layers.append(conv(channels, channels, kernel, stride, channels))
        layers.append(
            nn.Sequential(Gate(channels), conv(channels, out * width, 1)) if gate else conv(channels, out * width, 1)
        )
        channels = out * width
    return Network(nn.Sequential(*layers), channels)


def inverted(width: int, expand: int) -> nn.Module:
    """Inverted residuals, as in MobileNetV2."""
    layers, channels = [conv(3, width, 3, 2)], width
    for out, stride in ((1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1)):
        inner = expand * channels
        last = nn.Sequential(nn.Conv2d(inner, out * width, 1, bias=False), nn.BatchNorm2d(out * width))
        body = nn.Sequential(conv(channels, inner, 1), conv(inner, inner, 3, stride, inner), last)
        layers.append(nn.Sequential(Skip(body)) if out * width == channels and stride == 1 else body)
        channels = out * width
    return Network(nn.Sequential(*layers), channels)


def residual(width: int, groups: int = 1, *, bottleneck: bool = False) -> nn.Module:
    """Residual blocks, plain or with a bottleneck, perhaps grouped."""
    layers, channels = [conv(3, width, 7, 2)], width
    for factor in (1, 2, 4):
        out = factor * width
        layers.append(conv(channels, out, 3, 2, groups))
        inner = out // 2 if bottleneck else out
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        sizes = (out, *[inner] * (len(kernels) - 1), out)
        parts = [conv(a, b, k, 1, groups if k > 1 else 1) for (a, b), k in zip(pairwise(sizes), kernels, strict=True)]
        layers.append(nn.Sequential(Skip(nn.Sequential(*parts)), nn.ReLU()))
        channels = out
    return Network(nn.Sequential(*layers), channels)


def fire(width: int) -> nn.Module:
    """Squeeze and expand, as in SqueezeNet."""
    layers: list[nn.Module] = [conv(3, 2 * width, 3, 2), nn.MaxPool2d(2)]
    channels = 2 * width
    for factor in (1, 1, 2, 2):
        inner = factor * width // 2
        layers += [conv(channels, inner, 1), Fork(conv(inner, factor * width, 1), conv(inner, factor * width, 3))]
        channels = 2 * factor * width
        layers.append(nn.MaxPool2d(2) if factor == 1 and len(layers) > 5 else nn.Identity())  # once, half way
    return Network(nn.Sequential(*layers), channels)


def dense(width: int) -> nn.Module:
    """Three dense layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * 16 * 16, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 100),
    )


SUITE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "plain-64": (lambda: plain((32, 32, 64, 64, 128)), 64),
    "plain-128": (lambda: plain((32, 64, 64, 128, 128, 256)), 128),
    "depthwise-96": (lambda: depthwise(16), 96),
    "depthwise-160": (lambda: depthwise(32), 160),
    "gated-128": (lambda: depthwise(24, 5, gate=True), 128),
    "inverted-128": (lambda: inverted(16, 6), 128),
    "inverted-224": (lambda: inverted(16, 4), 224),
    "residual-96": (lambda: residual(48), 96),
    "bottleneck-160": (lambda: residual(64, bottleneck=True), 160),
    "grouped-128": (lambda: residual(64, 8, bottleneck=True), 128),
    "fire-160": (lambda: fire(64), 160),
    "dense-16": (lambda: dense(1536), 16),
}
"""Name -> how it is made, and its image's height and width; three channels."""

UNSEEN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "plain-96": (lambda: plain((16, 48, 96, 96)), 96),
    "depthwise-128": (lambda: depthwise(24), 128),
    "depthwise-224": (lambda: depthwise(16), 224),
    "kernel5-112": (lambda: depthwise(32, 5), 112),
    "inverted-160": (lambda: inverted(24, 4), 160),
    "inverted-96": (lambda: inverted(24, 6), 96),
    "residual-128": (lambda: residual(32), 128),
    "bottleneck-96": (lambda: residual(96, bottleneck=True), 96),
    "fire-112": (lambda: fire(96), 112),
    "gated-96": (lambda: depthwise(32, gate=True), 96),
}
"""Ten more, to try a calibrated profile on: none is in the suite."""


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network in eval mode, seeded, and the shape of one sample."""
    build, size = {**SUITE, **UNSEEN}[name]
    torch.manual_seed(0)
    return build().eval(), (3, size, size)
