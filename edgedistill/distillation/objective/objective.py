"""The training objective: the recipe's terms, built for one student and one teacher, added up by their schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgedistill.distillation.losses import feature, response
from edgedistill.distillation.losses.contrastive import ContrastiveMemory
from edgedistill.distillation.objective import auxiliaries, terms
from edgedistill.distillation.objective.projectors import projector
from edgedistill.errors import ModelError
from edgedistill.models.signals import LOGITS, Signal
from edgedistill.recipe.document import CrossEntropy, SoftTargets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.distillation.objective.terms import Step
    from edgedistill.models.capture import Tap
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
        student, teacher = _signals(term)
        own += student
        theirs += teacher
    return Wanted(tuple(dict.fromkeys(own)), tuple(dict.fromkeys(theirs)))


def _signals(term: Term) -> tuple[list[Signal], list[Signal]]:
    """A term's own signals, in the order of its layers; without layers, the logits."""
    if isinstance(term, CrossEntropy):
        return [LOGITS], []
    tap: Tap = getattr(term, "capture", "output")
    student = [Signal(layer, tap) for layer in getattr(term, "student_layers", [])]
    teacher = [Signal(layer, tap, term.teacher) for layer in getattr(term, "teacher_layers", [])]
    return student or [LOGITS], teacher or [Signal(member=term.teacher)]


@dataclass(frozen=True)
class Losses:
    """The objective's value, and that of every term before its weight."""

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Sides:
    """What building a term needs to know: shapes of one sample's signals, the training set's size, teacher modules.

    `batch_norms` gives the teacher's batch norm behind a signal, for the losses that read its parameters.
    """

    student: Mapping[Signal, tuple[int, ...]]
    teacher: Mapping[Signal, tuple[int, ...]]
    samples: int
    batch_norms: Mapping[Signal, nn.BatchNorm2d]


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
        return _module(spec, sides, seed)
    except ValueError as error:  # what the losses say of shapes and parameters
        raise ModelError(
            f"the term {spec.loss} does not fit: {error}",
            where=f"objective: {spec.loss}",
            expected="layers and parameters that the loss takes",
            got=str(error),
            fix="name other layers (`edgedistill layers` prints them with shapes)",
        ) from error


def _module(spec: Any, sides: Sides, seed: int) -> nn.Module:  # noqa: PLR0911 - one return per form of a term
    own, theirs = _signals(spec)
    loss, parameters = spec.loss, spec.parameters()
    pairs = list(zip(own, theirs, strict=True)) if theirs else []
    if isinstance(spec, CrossEntropy):
        return terms.Labels(response.label_cross_entropy, parameters)
    if loss in terms.RESPONSES:
        function = terms.RESPONSES[loss]
        if isinstance(spec, SoftTargets) and spec.form == "cross_entropy":
            function = response.soft_target_cross_entropy
        return terms.Logits(function, parameters, theirs[0], with_labels=loss == "dkd")
    if loss in terms.PROJECTED:
        projectors = [projector(sides.student[a], sides.teacher[b], spec.projector) for a, b in pairs]
        return terms.Pairs(terms.PROJECTED[loss], parameters, own, theirs, projectors)
    if loss in terms.POOLED:
        _maps(spec, sides)
        return terms.Maps(terms.POOLED[loss], parameters, own, theirs)
    if loss in terms.PLAIN:
        return terms.Pairs(terms.PLAIN[loss], parameters, own, theirs)
    if loss in terms.GROUPED:
        return terms.Groups(terms.GROUPED[loss], parameters, own, theirs)
    if loss == "crd":
        return terms.Sum([_contrast(spec, sides, a, b, seed) for a, b in pairs])
    shapes = _maps(spec, sides)
    if loss == "review":
        fusion = auxiliaries.AttentionFusion([a[0] for a, _ in shapes], [b for _, b in shapes])
        return terms.Reviewed(own, theirs, fusion)
    return terms.Sum([_learned(spec, sides, a, b) for a, b in pairs])


def _learned(spec: Any, sides: Sides, own: Signal, partner: Signal) -> nn.Module:
    """The terms with learned parts of their own, for one pair of layers."""
    channels, theirs = sides.student[own][0], sides.teacher[partner][0]
    match spec.loss:
        case "factor_transfer":
            factor = max(1, round(theirs * spec.factor_ratio))
            return terms.Factors(
                own, partner, auxiliaries.Paraphraser(theirs, factor), auxiliaries.Translator(channels, factor)
            )
        case "variational_information":
            return terms.Variational(own, partner, auxiliaries.VariationalRegressor(channels, theirs))
        case "simkd":
            return terms.Projected(feature.simkd, own, partner, auxiliaries.SimilarityProjector(channels, theirs))
        case "overhaul":
            if partner not in sides.batch_norms:
                raise ModelError(
                    f"overhaul reads the teacher's batch norm, and {partner.text} is none",
                    where=f"overhaul: {partner.text}",
                    expected="teacher_layers that are BatchNorm2d",
                    got="another kind of layer",
                    fix="name the batch norm before the activation (`edgedistill layers` prints the kinds)",
                )
            margin = auxiliaries.overhaul_margin(sides.batch_norms[partner])
            return terms.Overhauled(own, partner, auxiliaries.boundary_connector(channels, theirs), margin)
        case other:
            raise ModelError(f"the loss {other!r} has no term", where="objective")


def _contrast(spec: Any, sides: Sides, own: Signal, partner: Signal, seed: int) -> nn.Module:
    widths = (math.prod(sides.student[own]), math.prod(sides.teacher[partner]))
    memory = ContrastiveMemory(
        sides.samples, *widths, dim=spec.dim, negatives=spec.negatives, temperature=spec.temperature, seed=seed
    )
    return terms.Contrast(own, partner, memory)


def _maps(spec: Any, sides: Sides) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """(channels, height, width) of every pair.

    Raises:
        ModelError: a layer gives no map.
    """
    own, theirs = _signals(spec)
    return [
        (terms.map_shape(sides.student[a], a, spec.loss), terms.map_shape(sides.teacher[b], b, spec.loss))
        for a, b in zip(own, theirs, strict=True)
    ]
