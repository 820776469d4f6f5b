"""The zoo: students by name, with examples of their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from benchmarks.studies.zoo import images, sequences

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES = 7


@dataclass(frozen=True)
class Student:
    """How a student is built, and the shapes of its inputs; `ids`: largest integer of an input, 0 for floats."""

    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    ids: tuple[int, ...] = ()


ZOO = {
    "mobilenet-32": Student(partial(images.MobileNet, 1), ((3, 32, 32),)),
    "mobilenet-224": Student(partial(images.MobileNet, 2), ((3, 224, 224),)),
    "resnet": Student(images.ResNet, ((3, 32, 32),)),
    "shufflenet": Student(images.ShuffleNet, ((3, 32, 32),)),
    "vit": Student(images.VisionTransformer, ((3, 32, 32),)),
    "convnext": Student(images.ConvNext, ((3, 32, 32),)),
    "text-encoder": Student(sequences.TextEncoder, ((16,), (16,)), (199, 1)),
    "gru": Student(partial(sequences.Recurrent, nn.GRU), ((20, 8),)),
    "lstm": Student(partial(sequences.Recurrent, nn.LSTM), ((20, 8),)),
    "temporal-convnet": Student(sequences.TemporalConvnet, ((6, 64),)),
    "unet": Student(images.UNet, ((3, 32, 32),)),
    "two-inputs": Student(sequences.TwoInputs, ((1, 16, 16), (5,))),
    "multi-output": Student(images.Detector, ((3, 32, 32),)),
    "stock-transformer": Student(sequences.StockEncoder, ((16,),), (99,)),
    "bidirectional-lstm": Student(partial(sequences.Recurrent, nn.LSTM, bidirectional=True), ((20, 8),)),
}


def built(student: Student) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The module with seeded weights and lively batch norms, and seeded samples of its inputs."""
    torch.manual_seed(0)
    module = student.build()
    samples = tuple(_sample(shape, top) for shape, top in zip(student.shapes, _tops(student), strict=True))
    with torch.no_grad():
        for _ in range(20):  # untrained statistics would fade the inputs away
            module.train()(*samples)
    return module.eval(), samples


def _tops(student: Student) -> tuple[int, ...]:
    return student.ids or (0,) * len(student.shapes)


def _sample(shape: tuple[int, ...], top: int) -> torch.Tensor:
    if not top:
        apart = torch.randn(SAMPLES, shape[0], *(1 for _ in shape[1:]))  # noise alone is averaged away by pooling
        return torch.randn(SAMPLES, *shape) + 2 * apart
    values = torch.randint(0, top + 1, (SAMPLES, *shape))
    values[:, 0] = top  # a mask keeps a word
    return values
