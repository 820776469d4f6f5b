"""The terms of an objective: each knows what it listens to and gives one number a batch.

A term is a torch module so that what it learns itself (projectors, factors, memories) is trained and checkpointed
with the student. It never enters the student, so nothing of it can be exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.distillation.losses import feature
from edgedistill.errors import ModelError
from edgedistill.models.signals import LOGITS, Signal, Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Int

    from edgedistill.distillation.objective.auxiliaries import Paraphraser, Translator

    Loss = Callable[..., Tensor]
    """Takes tensors by position, and the recipe's parameters by name."""
    Shape = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """What is known of one batch: signals of both sides, labels (-1: none) and the samples' numbers."""

    student: Signals
    teacher: Signals
    labels: Int[Tensor, " batch"]
    rows: Int[Tensor, " batch"]


class Labels(nn.Module):
    """A loss of the student's logits and the labels."""

    def __init__(self, loss: Loss, parameters: Mapping[str, object]) -> None:
        super().__init__()
        self.loss = loss
        self.parameters_of_loss = parameters

    def forward(self, step: Step) -> Tensor:
        """Unlabelled samples are the loss's to leave out."""
        return self.loss(step.student[LOGITS], step.labels, **self.parameters_of_loss)


class Logits(nn.Module):
    """A loss of both sides' logits; `with_labels` for those that need the label too."""

    def __init__(
        self, loss: Loss, parameters: Mapping[str, object], teacher: Signal, *, with_labels: bool = False
    ) -> None:
        super().__init__()
        self.loss = loss
        self.parameters_of_loss = parameters
        self.teacher = teacher
        self.with_labels = with_labels

    def forward(self, step: Step) -> Tensor:
        """The samples without a label are left out where the loss needs one."""
        student, teacher = step.student[LOGITS], step.teacher[self.teacher]
        if not self.with_labels:
            return self.loss(student, teacher, **self.parameters_of_loss)
        known = step.labels >= 0
        if not bool(known.any()):
            return student.sum() * 0.0
        return self.loss(student[known], teacher[known], step.labels[known], **self.parameters_of_loss)


class Pairs(nn.Module):
    """A loss of one student layer and one teacher layer, summed over the pairs, the student's side projected first."""

    def __init__(
        self,
        loss: Loss,
        parameters: Mapping[str, object],
        student: Sequence[Signal],
        teacher: Sequence[Signal],
        projectors: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.parameters_of_loss = parameters
        self.student = tuple(student)
        self.teacher = tuple(teacher)
        self.projectors = nn.ModuleList(projectors or [nn.Identity() for _ in student])

    def forward(self, step: Step) -> Tensor:
        """Sum over the pairs."""
        values = [
            self.loss(projector(step.student[own]), step.teacher[wanted], **self.parameters_of_loss)
            for projector, own, wanted in zip(self.projectors, self.student, self.teacher, strict=True)
        ]
        return torch.stack(values).sum()


class Maps(Pairs):
    """Pairs of maps whose larger side is pooled to the smaller one; channels may differ."""

    def forward(self, step: Step) -> Tensor:
        """Sum over the pairs."""
        values = []
        for own, wanted in zip(self.student, self.teacher, strict=True):
            student, teacher = step.student[own], step.teacher[wanted]
            size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
            pooled = [functional.adaptive_avg_pool2d(maps, size) for maps in (student, teacher)]
            values.append(self.loss(*pooled, **self.parameters_of_loss))
        return torch.stack(values).sum()


class Groups(nn.Module):
    """A loss that takes all student layers, then all teacher layers: FSP, MiniLM."""

    def __init__(
        self,
        loss: Loss,
        parameters: Mapping[str, object],
        student: Sequence[Signal],
        teacher: Sequence[Signal],
    ) -> None:
        super().__init__()
        self.loss = loss
        self.parameters_of_loss = parameters
        self.student = tuple(student)
        self.teacher = tuple(teacher)

    def forward(self, step: Step) -> Tensor:
        """One value of all layers."""
        own = [step.student[signal] for signal in self.student]
        return self.loss(*own, *(step.teacher[signal] for signal in self.teacher), **self.parameters_of_loss)


class Factors(nn.Module):
    """Factor transfer: the student's translated factor follows the teacher's, whose paraphraser learns beside it."""

    def __init__(self, own: Signal, wanted: Signal, paraphraser: Paraphraser, translator: Translator) -> None:
        super().__init__()
        self.own = own
        self.wanted = wanted
        self.paraphraser = paraphraser
        self.translator = translator

    def forward(self, step: Step) -> Tensor:
        """The factors' distance, and the paraphraser's own reconstruction error, which the student does not feel."""
        teacher = step.teacher[self.wanted]
        factor = self.translator(_resized(step.student[self.own], teacher))
        wanted = self.paraphraser.factor(teacher).detach()
        return feature.factor_transfer(factor, wanted) + self.paraphraser.reconstruction_loss(teacher)


class Variational(nn.Module):
    """VID: a Gaussian around a regression of the student's feature."""

    def __init__(self, own: Signal, wanted: Signal, regressor: nn.Module) -> None:
        super().__init__()
        self.own = own
        self.wanted = wanted
        self.regressor = regressor

    def forward(self, step: Step) -> Tensor:
        """The negative log-likelihood of the teacher's feature."""
        teacher = step.teacher[self.wanted]
        mean, scale = self.regressor(_resized(step.student[self.own], teacher))
        return feature.variational_information(mean, scale, teacher)


class Overhauled(nn.Module):
    """OFD: the connector's output against the teacher's pre-activation under its margin."""

    def __init__(self, own: Signal, wanted: Signal, connector: nn.Module, margin: Tensor) -> None:
        super().__init__()
        self.own = own
        self.wanted = wanted
        self.connector = connector
        self.register_buffer("margin", margin)

    def forward(self, step: Step) -> Tensor:
        """The partial distance."""
        teacher = step.teacher[self.wanted]
        own = self.connector(_resized(step.student[self.own], teacher))
        return feature.overhaul(own, teacher, self.get_buffer("margin"))


class Reviewed(nn.Module):
    """ReviewKD: the student's levels fused from deep to shallow, each compared with the teacher's of that level."""

    def __init__(self, student: Sequence[Signal], teacher: Sequence[Signal], fusion: nn.Module) -> None:
        super().__init__()
        self.student = tuple(student)
        self.teacher = tuple(teacher)
        self.fusion = fusion

    def forward(self, step: Step) -> Tensor:
        """The hierarchical context loss over all levels."""
        fused = self.fusion([step.student[signal] for signal in self.student])
        return feature.hierarchical_context(fused, [step.teacher[signal] for signal in self.teacher])


class Projected(nn.Module):
    """A loss of one pair of maps, the student's through a learned projector: SimKD."""

    def __init__(self, loss: Loss, own: Signal, wanted: Signal, projector: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.own = own
        self.wanted = wanted
        self.projector = projector

    def forward(self, step: Step) -> Tensor:
        """The loss at the teacher's resolution."""
        teacher = step.teacher[self.wanted]
        return self.loss(self.projector(_resized(step.student[self.own], teacher)), teacher)


class Sum(nn.Module):
    """Terms of one kind over several pairs of layers."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, step: Step) -> Tensor:
        """Their sum."""
        return torch.stack([part(step) for part in self.parts]).sum()


class Contrast(nn.Module):
    """CRD: the samples' numbers find their places in the memory."""

    def __init__(self, own: Signal, wanted: Signal, memory: nn.Module) -> None:
        super().__init__()
        self.own = own
        self.wanted = wanted
        self.memory = memory

    def forward(self, step: Step) -> Tensor:
        """The contrastive loss."""
        value: Tensor = self.memory(step.student[self.own].flatten(1), step.teacher[self.wanted].flatten(1), step.rows)
        return value


def _resized(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map at the teacher's resolution."""
    if student.shape[2:] == teacher.shape[2:]:
        return student
    return functional.interpolate(student, teacher.shape[2:], mode="bilinear", align_corners=False)


def map_shape(shape: Shape, signal: Signal, loss: str) -> tuple[int, int, int]:
    """Channels, height, width of a signal.

    Raises:
        ModelError: it is no map.
    """
    if len(shape) != 3:  # channels, height, width
        raise ModelError(
            f"{loss} compares maps, and {signal.text} gives none",
            where=f"{loss}: {signal.text}",
            expected="a feature of shape (channels, height, width)",
            got=f"shape {shape}",
            fix="name a convolutional layer (`edgedistill layers` prints them with shapes)",
        )
    return shape[0], shape[1], shape[2]
