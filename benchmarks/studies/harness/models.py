"""Convolution stacks of a wanted duration, in every format; and one with a tenth more work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from edgedistill.plugins import load_exporter
from edgedistill.types import Normalization, Signature, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Artifact

SIZES = {"0.1 ms": (16, 16, 8), "1 ms": (24, 32, 10), "20 ms": (48, 64, 20)}
"""About how long, on one core of 2026 -> (channels, side of the image, layers)."""


def stack(channels: int, layers: int) -> nn.Module:
    """Layers of 3 x 3 convolutions of one width: a tenth more layers is a tenth more work."""
    parts: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
    for _ in range(layers):
        parts += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).eval()


def artifact(fmt: str, name: str, channels: int, side: int, layers: int, folder: Path) -> Artifact:
    """Such a stack, exported."""
    signature = Signature(
        (TensorSpec("image", ("batch", 3, side, side), "float32", "NCHW"),),
        (TensorSpec("logits", ("batch", 10), "float32"),),
        Normalization((0.0,), (1.0,)),
        (),
    )
    out = folder / fmt
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)  # the same weights when a study goes on
    return load_exporter(fmt).export(stack(channels, layers), name, signature, out)
