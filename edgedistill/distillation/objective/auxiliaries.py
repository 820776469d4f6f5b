"""Learned parts that some losses train beside the student.

All are built from given channels and shapes, with the weights of torch's global generator. They stay out of the
exported student, but for SimKD's projector, which leads to the teacher's classifier.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Float
    from torch import Tensor


class VariationalRegressor(nn.Module):
    """The Gaussian q(teacher | student) of losses.feature.variational_information.

    The mean is regressed by three 1x1 convolutions with ReLUs between them; the variance of a teacher's channel is
    softplus(parameter) + 1e-5, so always positive, and starts at 5.
    Source: S. Ahn et al., "Variational Information Distillation for Knowledge Transfer", 2019, and the authors' code.
    """

    START, LEAST = 5.0, 1e-5

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        inverse_softplus = math.log(math.expm1(self.START - self.LEAST))
        self.raw_variance = nn.Parameter(torch.full((teacher_channels,), inverse_softplus))

    def forward(
        self, student: Float[Tensor, "batch student_channels height width"]
    ) -> tuple[Float[Tensor, "batch teacher_channels height width"], Float[Tensor, " teacher_channels"]]:
        """The mean of every element and the variance of every channel of the teacher's map."""
        return self.mean(student), functional.softplus(self.raw_variance) + self.LEAST


class Paraphraser(nn.Module):
    """An auto-encoder of the teacher's map; its bottleneck is the factor that the student learns.

    Trained alone on the teacher's maps with `reconstruction_loss`, then left as it is. Three 3x3 convolutions to the
    factor and three transposed ones back, each with batch norm and LeakyReLU(0.1).
    Source: J. Kim, S. Park, N. Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018.
    """

    def __init__(self, teacher_channels: int, factor_channels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_factor_layers(nn.Conv2d, [*[teacher_channels] * 2, *[factor_channels] * 2]))
        self.decoder = nn.Sequential(
            *_factor_layers(nn.ConvTranspose2d, [*[factor_channels] * 2, *[teacher_channels] * 2])
        )

    def factor(
        self, teacher: Float[Tensor, "batch teacher_channels height width"]
    ) -> Float[Tensor, "batch factor_channels height width"]:
        """What losses.feature.factor_transfer compares."""
        found: Tensor = self.encoder(teacher)
        return found

    def forward(
        self, teacher: Float[Tensor, "batch teacher_channels height width"]
    ) -> Float[Tensor, "batch teacher_channels height width"]:
        """The teacher's map, rebuilt from its factor."""
        rebuilt: Tensor = self.decoder(self.factor(teacher))
        return rebuilt

    def reconstruction_loss(self, teacher: Float[Tensor, "batch teacher_channels height width"]) -> Float[Tensor, ""]:
        """Mean of (rebuilt - teacher)^2 over all elements; the teacher gets no gradient."""
        teacher = teacher.detach()
        return functional.mse_loss(self(teacher), teacher)


class Translator(nn.Sequential):
    """The student's map to its factor: the paraphraser's encoder, for the student's channels (same source)."""

    def __init__(self, student_channels: int, factor_channels: int) -> None:
        super().__init__(*_factor_layers(nn.Conv2d, [*[student_channels] * 2, *[factor_channels] * 2]))


def _factor_layers(convolution: type[nn.Conv2d | nn.ConvTranspose2d], channels: Sequence[int]) -> Iterator[nn.Module]:
    for before, after in pairwise(channels):
        yield convolution(before, after, kernel_size=3, padding=1, bias=False)
        yield nn.BatchNorm2d(after)
        yield nn.LeakyReLU(0.1)


class _Fusion(nn.Module):
    """One step of the review: the student's map, weighed against what comes from the deeper layers."""

    def __init__(self, student_channels: int, middle: int, teacher_shape: tuple[int, int, int]) -> None:
        super().__init__()
        teacher_channels, *size = teacher_shape
        self.size = size
        self.reduce = _conv_bn(student_channels, middle, 1)
        self.weigh = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid())
        self.expand = _conv_bn(middle, teacher_channels, 3)

    def forward(self, student: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        fused: Tensor = self.reduce(student)
        if deeper is not None:
            deeper = functional.interpolate(deeper, size=fused.shape[2:], mode="nearest")
            own, other = self.weigh(torch.cat([fused, deeper], dim=1)).split(1, dim=1)
            fused = own * fused + other * deeper
        return self.expand(functional.interpolate(fused, size=self.size, mode="nearest")), fused


class AttentionFusion(nn.Module):
    """ReviewKD's attention based fusion: the student's maps, reviewed from the deepest to the shallowest.

    Maps are listed from shallow to deep, channels and shapes (channels, height, width) likewise; sizes are joined by
    nearest-neighbour interpolation, so any may meet. The result goes to losses.feature.hierarchical_context.
    Source: P. Chen et al., "Distilling Knowledge via Knowledge Review", 2021, and the authors' code.

    Raises:
        ValueError: there is no layer, or the numbers of layers of student and teacher differ.
    """

    WIDEST = 512  # channels while fusing

    def __init__(self, student_channels: Sequence[int], teacher_shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        if not student_channels or len(student_channels) != len(teacher_shapes):
            raise ValueError(
                "student_channels and teacher_shapes must list equally many layers, at least one, "
                f"got {len(student_channels)} and {len(teacher_shapes)}"
            )
        middle = min(self.WIDEST, student_channels[-1])
        pairs = zip(student_channels, teacher_shapes, strict=True)
        self.steps = nn.ModuleList(_Fusion(channels, middle, shape) for channels, shape in pairs)
        del self.steps[-1].weigh  # nothing is deeper than the deepest

    def forward(self, students: Sequence[Float[Tensor, "batch _ _ _"]]) -> list[Float[Tensor, "batch _ _ _"]]:
        """Maps of the teacher's shapes.

        Raises:
            ValueError: the number of maps is not the number of layers.
        """
        reviewed: list[Tensor] = []
        deeper: Tensor | None = None
        for step, student in reversed(list(zip(self.steps, students, strict=True))):
            shaped, deeper = step(student, deeper)
            reviewed.append(shaped)
        return reviewed[::-1]


class SimilarityProjector(nn.Sequential):
    """SimKD's projector: 1x1, 3x3 and 1x1 convolution with half the teacher's channels between, batch norms and ReLUs.

    Its output stands in for the teacher's last map before the teacher's own classifier. So unlike the other parts it
    is needed with the student afterwards.
    Source: D. Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", 2022.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        bottleneck = max(1, teacher_channels // 2)
        super().__init__(
            *_conv_bn(student_channels, bottleneck, 1),
            nn.ReLU(),
            *_conv_bn(bottleneck, bottleneck, 3),
            nn.ReLU(),
            *_conv_bn(bottleneck, teacher_channels, 1),
            nn.ReLU(),
        )


def boundary_connector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """1x1 convolution and batch norm: the student's pre-activations in the teacher's channels.

    For activation_boundary and overhaul in losses.feature.
    Source: B. Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
    2019.
    """
    return _conv_bn(student_channels, teacher_channels, 1)


def _conv_bn(before: int, after: int, kernel_size: int) -> nn.Sequential:
    """A convolution that keeps the size, without the bias that its batch norm would cancel."""
    convolution = nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after))


@torch.no_grad()
def overhaul_margin(batch_norm: nn.BatchNorm2d) -> Float[Tensor, " channels"]:
    """The expected negative response E[x | x < 0] of every channel, for x ~ N(bias, weight^2), in closed form.

    b - |w| pdf(b / |w|) / cdf(-b / |w|), with the normal density and distribution function; never above 0. (Public
    code puts -3 |w| where the cdf is below 0.001; the expectation itself tends to -w^2 / b there.)
    Source: B. Heo et al., "A Comprehensive Overhaul of Feature Distillation", 2019.

    Raises:
        ValueError: the batch norm has no weight and bias.
    """
    if not batch_norm.affine:
        raise ValueError("the batch norm must be affine: its weight and bias give the margin")
    # On the CPU, for not every accelerator has float64.
    mean, deviation = (numbers.to("cpu", torch.float64) for numbers in (batch_norm.bias, batch_norm.weight.abs()))
    ratio = mean / deviation
    # cdf(-z) underflows at z = 38, its quotient with the density does not: erfcx is scaled by exactly that.
    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(ratio / math.sqrt(2))
    far = ratio > 1e4  # from here -w / z is nearer than the difference, which cancels
    margin = torch.where(far, -deviation / ratio, mean - deviation * hazard)
    # A channel without deviation is constant: its negative part is itself or nothing.
    return torch.where(deviation > 0, margin, mean.clamp(max=0)).to(batch_norm.weight)
