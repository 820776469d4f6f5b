"""One training of one epoch, the same for every subject: models, batches, optimiser, objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from benchmarks.studies.peers.models import CifarResNet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float, Int
    from torch import Tensor

TEMPERATURE = 4.0
ALPHA = 0.9
"""Weight of the soft targets; the labels get the rest."""
LEARNING_RATE = 0.05
MOMENTUM = 0.9
"""Nesterov's."""
WEIGHT_DECAY = 5e-4


@dataclass(frozen=True)
class Task:
    """Ready batches in RAM, in the order in which they are trained on, and how the models are made."""

    inputs: Float[Tensor, "steps batch 3 size size"]
    labels: Int[Tensor, "steps batch"]
    make_teacher: Callable[[], nn.Module]
    make_student: Callable[[], nn.Module]
    classes: int = 10

    @property
    def batch(self) -> int:
        """Samples per step."""
        return self.inputs.shape[1]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels, batch after batch."""
        return zip(self.inputs, self.labels, strict=True)

    def head(self, steps: int) -> Task:
        """The first batches alone."""
        return replace(self, inputs=self.inputs[:steps], labels=self.labels[:steps])

    def teacher(self) -> nn.Module:
        """A frozen teacher in evaluation mode: its batch normalisation must not learn.

        It is untrained, so its batch statistics are taken from the first batch: without any, its logits would be in
        the thousands, its answers one-hot, and a wrong temperature would go unseen.
        """
        torch.manual_seed(1)
        teacher = self.make_teacher().requires_grad_(requires_grad=False).train()
        for module in teacher.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # a plain mean over the batches seen
        teacher(self.inputs[0])
        return teacher.eval()

    def student(self) -> nn.Module:
        """A new student, always with the same weights, in training mode."""
        torch.manual_seed(2)
        return self.make_student().train()


def cifar_sized(steps: int, batch: int, teacher_depth: int = 56, student_depth: int = 8) -> Task:
    """Random images of CIFAR's shape: what a step costs does not depend on what the images show."""
    chance = torch.Generator().manual_seed(0)
    return Task(
        torch.randn(steps, batch, 3, 32, 32, generator=chance),
        torch.randint(10, (steps, batch), generator=chance),
        partial(CifarResNet, teacher_depth),
        partial(CifarResNet, student_depth),
    )
