"""The training objective: the recipe's terms, built for one student and one teacher, added up by their schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgedistill.distillation.objective.table import TERMS, Slot, signals
from edgedistill.errors import ModelError
from edgedistill.models.signals import LOGITS, Signal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.distillation.objective.table import Sides
    from edgedistill.distillation.objective.terms import Step
    from edgedistill.recipe.document import Schedule, Term


@dataclass(frozen=True)
class Wanted:
    """What the terms of an objective listen to, on either side."""

    student: tuple[Signal, ...]
    teacher: tuple[Signal, ...]


def wanted(objective: Sequence[Term]) -> Wanted:
    """The signals of all terms, the student's logits always among them."""
    own, theirs = [LOGITS], list[Signal]()
    for term in objective:
        student, teacher = signals(term)
        own += student
        theirs += teacher
    return Wanted(tuple(dict.fromkeys(own)), tuple(dict.fromkeys(theirs)))


@dataclass(frozen=True)
class Losses:
    """The objective's value, and that of every term before its weight."""

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """A weighted sum of terms."""

    def __init__(self, specs: Sequence[Term], sides: Sides, epochs: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.names = _names(specs)
        self.specs = tuple(specs)
        self.epochs = epochs
        self.terms = nn.ModuleList(_built(spec, sides, seed) for spec in specs)

    def forward(self, step: Step, epoch: float) -> Losses:
        """Add up the terms that are on at this moment.

        Args:
            step: the batch.
            epoch: passes over the data so far, with fraction.
        """
        values: dict[str, Tensor] = {}
        total = step.student[LOGITS].new_zeros((), dtype=torch.float32)
        for name, spec, term in zip(self.names, self.specs, self.terms, strict=True):
            factor = spec.weight * weight_at(spec.schedule, epoch, self.epochs)
            if factor > 0:
                values[name] = term(step)
                total = total + factor * values[name]
        if not values:  # every term sleeps: nothing is learned, and nothing breaks
            total = total + 0.0 * step.student[LOGITS].sum()
        return Losses(total, values)


def weight_at(schedule: Schedule, epoch: float, epochs: int) -> float:
    """The schedule's factor, 0 to 1, at a moment of a training of so many epochs."""
    end = schedule.to_epoch if schedule.to_epoch is not None else float(epochs)
    if not schedule.from_epoch <= epoch < end:
        return 0.0
    match schedule.shape:
        case "constant":
            return 1.0
        case "warmup":
            return min(1.0, (epoch - schedule.from_epoch) / schedule.warmup_epochs)
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * (epoch - schedule.from_epoch) / (end - schedule.from_epoch)))


def _names(specs: Sequence[Term]) -> list[str]:
    """The losses' names; those that stand several times are numbered."""
    plain = [spec.loss for spec in specs]
    return [f"{name}#{plain[:n].count(name)}" if plain.count(name) > 1 else name for n, name in enumerate(plain)]


def _built(spec: Term, sides: Sides, seed: int) -> nn.Module:
    try:
        return TERMS[spec.loss](Slot(spec, sides, seed))
    except ValueError as error:  # what the losses say of shapes and parameters
        raise ModelError(
            f"the term {spec.loss} does not fit: {error}",
            where=f"objective: {spec.loss}",
            expected="layers and parameters that the loss takes",
            got=str(error),
            fix="name other layers (`edgedistill layers` prints them with shapes)",
        ) from error
