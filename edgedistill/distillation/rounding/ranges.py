"""Rounding to 8 bits inside a float network, with gradients.

What is rounded here is what integer files compute with: activations per tensor, asymmetric, 256 levels; weights per
output channel, symmetric, 255 levels. Rounding passes its gradient on unchanged (straight-through: Bengio 2013).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

LEVELS = 255
"""Steps between the ends of an activation's range."""
_WEIGHT_LEVELS = 127
_SHRINKS = tuple(1 - 0.05 * step for step in range(18))
"""Shares of the full range that are tried for a range of least squared error."""
_TINY = 1e-12


class LearnedRange(nn.Module):
    """Rounds activations to 256 levels between two ends that are trained.

    The ends are trained as logarithms relative to the calibrated ones, so that one learning rate fits ranges of any
    size and weight decay pulls towards calibration; their gradient is scaled by 1 / sqrt(features * 255).
    Zero is always one of the levels.

    Source: S. Esser et al., "Learned Step Size Quantization", ICLR 2020 (gradients, their scale); S. Jain et al.,
    "Trained Quantization Thresholds", MLSys 2020 (logarithmic ends).
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))
        self.low_growth = nn.Parameter(torch.zeros(()))
        self.high_growth = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def calibrate(self, values: Float[Tensor, " n"]) -> None:
        """Start from the range, among shares of the full one, whose rounding has the least squared error."""
        low, high = values.min().clamp(max=0.0), values.max().clamp(min=0.0)
        if high - low < _TINY:  # a dead tensor: any range serves
            high = high + 1.0
        errors = [(rounded(values, share * low, share * high) - values).square().mean() for share in _SHRINKS]
        best = _SHRINKS[int(torch.stack(errors).argmin())]
        self.low.copy_(best * low)
        self.high.copy_(best * high)

    def ends(self) -> tuple[Tensor, Tensor]:
        """The range as it stands, in the unit of the activations: low <= 0 <= high."""
        return self.low * self.low_growth.exp(), self.high * self.high_growth.exp()

    def bounds(self) -> tuple[float, float]:
        """The ends as numbers, moved together by less than a step so that zero is exactly a level."""
        low, high = (float(end.detach()) for end in self.ends())
        step = (high - low) / LEVELS
        zero = round(-low / step)
        return -zero * step, (LEVELS - zero) * step

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The values on the nearest levels."""
        share = 1 / math.sqrt(max(1, x[0].numel()) * LEVELS)
        low, high = (_scaled_gradient(end, share) for end in self.ends())
        return rounded(x, low, high)


def rounded(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`x` on 256 levels from low to high, one of them zero; clipped outside. Gradients reach x and both ends."""
    step = (high - low) / LEVELS
    zero = _round(-low / step)
    return ((_round(x / step) + zero).clamp(0, LEVELS) - zero) * step


def rounded_weights(weights: Tensor, axis: int) -> Tensor:
    """Weights on 255 levels per slice along `axis`, the largest magnitude being the last level; gradient unchanged."""
    others = [dim for dim in range(weights.ndim) if dim != axis % weights.ndim]
    values = weights.detach()
    step = values.abs().amax(others, keepdim=True).clamp(min=_TINY) / _WEIGHT_LEVELS
    return weights + ((values / step).round().clamp(-_WEIGHT_LEVELS, _WEIGHT_LEVELS) * step - values)


def _round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _scaled_gradient(x: Tensor, share: float) -> Tensor:
    """The same value, its gradient multiplied by `share`."""
    return x * share + (x * (1 - share)).detach()
