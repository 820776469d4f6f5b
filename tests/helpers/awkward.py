"""Modules that converters stumble over, each inside a child named `body`; and which formats really take them.

What is recorded was tried with torch 2.13, litert-torch 0.10, OpenVINO 2026.4, pnnx and ncnn 1.0.20261020;
tests/conversion/test_operators_of_models.py tries it again (slow).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = (3, 8, 8)
FORMATS = frozenset(("onnx", "tflite", "openvino", "ncnn"))


@torch.library.custom_op("edgedistill_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    """An operator that no converter knows."""
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@dataclass(frozen=True)
class Case:
    """A function of one tensor; the formats that are foreseen to refuse it, and those that refuse it unforeseen."""

    compute: Callable[[Tensor], Tensor]
    foreseen: frozenset[str] = frozenset()
    unforeseen: frozenset[str] = frozenset()
    sample: tuple[int, ...] = IMAGE


class Body(nn.Module):
    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x)


class Awkward(nn.Module):
    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = Body(compute)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found


def _deform(x: Tensor) -> Tensor:
    """Values taken from where values say, as deformable convolutions do."""
    n, c, h, w = x.shape
    index = (x.mean(1) * 2).round().long().clamp(0, h * w - 1).reshape(n, 1, -1).expand(n, c, -1)
    return torch.gather(x.reshape(n, c, -1), 2, index).reshape(n, c, h, w)


def _unpool(x: Tensor) -> Tensor:
    values, indices = nn.MaxPool2d(2, return_indices=True)(x)
    found: Tensor = nn.MaxUnpool2d(2)(values, indices)
    return found


def _branch(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x * 2
    return x


def _loop(x: Tensor) -> Tensor:
    for _ in range(int(x.abs().sum().item()) % 3):
        x = x + 1
    return x


_KERNEL = torch.linspace(-1, 1, 4 * 3 * 27).reshape(4, 3, 3, 3, 3)
_NO_NCNN = frozenset({"ncnn"})
_NOT_TFLITE_NCNN = frozenset({"tflite", "ncnn"})

CASES = {
    "rfft": Case(lambda x: torch.fft.rfft(x).abs(), _NO_NCNN),
    "fft2": Case(lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real, _NOT_TFLITE_NCNN),
    "complex": Case(lambda x: torch.view_as_real(torch.complex(x, x) * torch.complex(x, -x)), _NOT_TFLITE_NCNN),
    "masked": Case(lambda x: x.mean((2, 3)) + x[x > 0].sum() * 0, frozenset({"tflite"}), _NO_NCNN),
    "nonzero": Case(torch.nonzero, FORMATS),
    "unique": Case(lambda x: torch.unique(x.round()), FORMATS),
    "grid_sample": Case(lambda x: functional.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False)),
    "conv3d": Case(lambda x: functional.conv3d(x, _KERNEL, padding=1), sample=(3, 4, 8, 8)),
    "gather": Case(_deform, _NO_NCNN),
    "custom": Case(lambda x: twice(x) + 1, FORMATS),
    "unfold": Case(lambda x: functional.unfold(x, 3, padding=1)),
    "fold": Case(
        lambda x: functional.fold(functional.unfold(x, 2, stride=2), (8, 8), 2, stride=2), frozenset({"tflite"})
    ),
    "sort": Case(lambda x: torch.sort(x, dim=-1)[0], _NOT_TFLITE_NCNN),
    "topk": Case(lambda x: torch.topk(x.flatten(1), 5)[0], _NOT_TFLITE_NCNN),
    "median": Case(lambda x: x.median(-1)[0], FORMATS),
    "cumsum": Case(lambda x: torch.cumsum(x, -1)),
    "cumprod": Case(lambda x: torch.cumprod(x, -1), FORMATS),
    "scatter": Case(lambda x: torch.zeros_like(x).scatter(3, x.argmax(3, keepdim=True), 1.0), _NO_NCNN),
    "pixel_shuffle": Case(lambda x: functional.pixel_shuffle(torch.cat([x, x[:, :1]], 1), 2)),
    "einsum": Case(lambda x: torch.einsum("nchw,ncwk->nhk", x, x)),
    "bilinear": Case(lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
    "bicubic": Case(lambda x: functional.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)),
    "adaptive_average": Case(lambda x: functional.adaptive_avg_pool2d(x, 3)),
    "adaptive_maximum": Case(lambda x: functional.adaptive_max_pool2d(x, 3), FORMATS - {"ncnn"}),
    "branch": Case(_branch, FORMATS),
    "loop": Case(_loop, FORMATS),
    "six_axes": Case(
        lambda x: x.reshape(x.shape[0], 3, 2, 4, 2, 4).permute(0, 1, 3, 5, 2, 4).reshape(x.shape), frozenset(), _NO_NCNN
    ),
    "inverse": Case(lambda x: torch.linalg.inv(x + 9 * torch.eye(8)), FORMATS),
    "svd": Case(torch.linalg.svdvals, FORMATS),
    "determinant": Case(torch.linalg.det, FORMATS - {"onnx"}),
    "noise": Case(lambda x: x + torch.rand_like(x) * 0, FORMATS - {"onnx"}),
    "erfinv": Case(lambda x: torch.erfinv(x.tanh()), FORMATS),
    "lgamma": Case(lambda x: torch.lgamma(x.abs() + 1), FORMATS),
    "cdist": Case(lambda x: torch.cdist(x, x), FORMATS - {"tflite"}),
    "unpool": Case(_unpool, _NOT_TFLITE_NCNN),
    "bucketize": Case(lambda x: torch.bucketize(x, torch.linspace(-1, 1, 5)).float(), _NOT_TFLITE_NCNN),
    "bitwise": Case(lambda x: ((x * 8).long() & 3).float(), _NOT_TFLITE_NCNN),
    "roll": Case(lambda x: torch.roll(x, 2, -1)),
    "circular": Case(
        lambda x: functional.pad(x, (1, 1, 1, 1), mode="circular"), frozenset(), frozenset({"openvino", "ncnn"})
    ),
}
