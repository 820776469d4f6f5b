"""The table of losses: what makes a term of each `loss` word of the recipe.

A loss is a section in recipe/terms.py, a function, and a line here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedistill.distillation.losses import feature, relation, response, transformer
from edgedistill.distillation.losses.contrastive import ContrastiveMemory
from edgedistill.distillation.objective import auxiliaries, terms
from edgedistill.distillation.objective.projectors import projector
from edgedistill.errors import ModelError
from edgedistill.models.signals import LOGITS, Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from edgedistill.distillation.objective.terms import Loss, Shape
    from edgedistill.recipe.document import Term


@dataclass(frozen=True)
class Sides:
    """What building a term needs to know: shapes of one sample's signals, the training set's size, teacher modules.

    `batch_norms` gives the teacher's batch norm behind a signal, for the losses that read its parameters.
    """

    student: Mapping[Signal, Shape]
    teacher: Mapping[Signal, Shape]
    samples: int
    batch_norms: Mapping[Signal, nn.BatchNorm2d]


def signals(term: Term) -> tuple[list[Signal], list[Signal]]:
    """A term's own signals on either side, in the order of its layers; without layers, the logits."""
    own = [Signal(layer, term.tap) for layer, _ in term.pairs]
    theirs = [Signal(layer, term.tap, term.member) for _, layer in term.pairs]
    logits = [Signal(member=term.member)] if term.taught else []
    return own or [LOGITS], theirs or logits


class Slot:
    """A place in an objective, for one term of the recipe.

    Attributes:
        term: as the recipe says it.
        sides: what it is built for.
        seed: of the training.
        own: the student's signals.
        theirs: the teacher's partners of these; none for a term of the labels alone.
        parameters: what the loss itself is given.
    """

    def __init__(self, term: Term, sides: Sides, seed: int) -> None:
        self.term = term
        self.sides = sides
        self.seed = seed
        self.own, self.theirs = signals(term)
        self.parameters = term.parameters()

    def pairs(self) -> list[Pair]:
        """Every signal of the student with its partner."""
        return [Pair(self, own, wanted) for own, wanted in zip(self.own, self.theirs, strict=True)]


@dataclass(frozen=True)
class Pair:
    """One signal of the student, and its partner in the teacher."""

    slot: Slot
    own: Signal
    wanted: Signal

    def shapes(self) -> tuple[Shape, Shape]:
        """Of one sample, the student's first."""
        return self.slot.sides.student[self.own], self.slot.sides.teacher[self.wanted]

    def channels(self) -> tuple[int, int]:
        """The first axes of the shapes."""
        (own, *_), (wanted, *_) = self.shapes()
        return own, wanted

    def maps(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """The shapes as (channels, height, width).

        Raises:
            ModelError: a layer gives no map.
        """
        (own, wanted), loss = self.shapes(), self.slot.term.loss
        return terms.map_shape(own, self.own, loss), terms.map_shape(wanted, self.wanted, loss)


if TYPE_CHECKING:
    Builder = Callable[[Slot], nn.Module]
    PairBuilder = Callable[..., nn.Module]
    """Takes a pair, and the recipe's parameters by name."""


def _labels(loss: Loss) -> Builder:
    """A loss of the student's logits and the labels."""
    return lambda slot: terms.Labels(loss, slot.parameters)


def _logits(loss: Loss, *, with_labels: bool = False) -> Builder:
    """A loss of both sides' logits."""
    return lambda slot: terms.Logits(loss, slot.parameters, slot.theirs[0], with_labels=with_labels)


def _pairs(loss: Loss) -> Builder:
    """A loss of two features as they are, whatever their shapes."""
    return lambda slot: terms.Pairs(loss, slot.parameters, slot.own, slot.theirs)


def _projected(loss: Loss) -> Builder:
    """A loss of two features of one shape: the student's goes through a projector."""

    def build(slot: Slot) -> nn.Module:
        projectors = [projector(*pair.shapes(), slot.term.projection) for pair in slot.pairs()]
        return terms.Pairs(loss, slot.parameters, slot.own, slot.theirs, projectors)

    return build


def _pooled(loss: Loss) -> Builder:
    """A loss of two maps, the larger one pooled."""

    def build(slot: Slot) -> nn.Module:
        for pair in slot.pairs():
            pair.maps()
        return terms.Maps(loss, slot.parameters, slot.own, slot.theirs)

    return build


def _grouped(loss: Loss) -> Builder:
    """A loss of all the student's layers and all the teacher's."""
    return lambda slot: terms.Groups(loss, slot.parameters, slot.own, slot.theirs)


def _summed(build: PairBuilder) -> Builder:
    """A term with learned parts of its own for every pair."""
    return lambda slot: terms.Sum([build(pair, **slot.parameters) for pair in slot.pairs()])


def _summed_maps(build: PairBuilder) -> Builder:
    """The same, of maps alone."""

    def checked(slot: Slot) -> nn.Module:
        for pair in slot.pairs():
            pair.maps()
        return _summed(build)(slot)

    return checked


def _softened(student: Tensor, teacher: Tensor, form: str, temperature: float) -> Tensor:
    """Soft targets in the form that the recipe names."""
    loss = response.soft_target_cross_entropy if form == "cross_entropy" else response.soft_target_kl
    return loss(student, teacher, temperature)


def _contrast(pair: Pair, dim: int, negatives: int | None, temperature: float) -> nn.Module:
    own, wanted = map(math.prod, pair.shapes())
    memory = ContrastiveMemory(
        pair.slot.sides.samples,
        own,
        wanted,
        dim=dim,
        negatives=negatives,
        temperature=temperature,
        seed=pair.slot.seed,
    )
    return terms.Contrast(pair.own, pair.wanted, memory)


def _factors(pair: Pair, factor_ratio: float) -> nn.Module:
    own, wanted = pair.channels()
    factor = max(1, round(wanted * factor_ratio))
    paraphraser, translator = auxiliaries.Paraphraser(wanted, factor), auxiliaries.Translator(own, factor)
    return terms.Factors(pair.own, pair.wanted, paraphraser, translator)


def _variational(pair: Pair) -> nn.Module:
    return terms.Variational(pair.own, pair.wanted, auxiliaries.VariationalRegressor(*pair.channels()))


def _simkd(pair: Pair) -> nn.Module:
    return terms.Projected(feature.simkd, pair.own, pair.wanted, auxiliaries.SimilarityProjector(*pair.channels()))


def _overhaul(pair: Pair) -> nn.Module:
    norms = pair.slot.sides.batch_norms
    if pair.wanted not in norms:
        raise ModelError(
            f"overhaul reads the teacher's batch norm, and {pair.wanted.text} is none",
            where=f"overhaul: {pair.wanted.text}",
            expected="teacher_layers that are BatchNorm2d",
            got="another kind of layer",
            fix="name the batch norm before the activation (`edgedistill layers` prints the kinds)",
        )
    margin = auxiliaries.overhaul_margin(norms[pair.wanted])
    return terms.Overhauled(pair.own, pair.wanted, auxiliaries.boundary_connector(*pair.channels()), margin)


def _review(slot: Slot) -> nn.Module:
    shapes = [pair.maps() for pair in slot.pairs()]
    fusion = auxiliaries.AttentionFusion([own[0] for own, _ in shapes], [wanted for _, wanted in shapes])
    return terms.Reviewed(slot.own, slot.theirs, fusion)


TERMS: dict[str, Builder] = {
    "cross_entropy": _labels(response.label_cross_entropy),
    "soft_targets": _logits(_softened),
    "dkd": _logits(response.decoupled_kd, with_labels=True),
    "dist": _logits(response.dist),
    "logit_standardized": _logits(response.logit_standardized_kd),
    "multi_level": _logits(response.multi_level_kd),
    "hard_label": _logits(response.hard_label_kd),
    "logit_mse": _logits(response.logit_mse),
    "binary": _logits(response.binary_kd),
    "hint": _projected(feature.hint),
    "attention_transfer": _pooled(feature.attention_transfer),
    "neuron_selectivity": _pooled(feature.neuron_selectivity),
    "activation_boundary": _projected(feature.activation_boundary),
    "factor_transfer": _summed_maps(_factors),
    "variational_information": _summed_maps(_variational),
    "overhaul": _summed_maps(_overhaul),
    "review": _review,
    "simkd": _summed_maps(_simkd),
    "channel_wise": _projected(feature.channel_wise),
    "tinybert_hidden": _projected(transformer.tinybert_hidden),
    "tinybert_attention": _pairs(transformer.tinybert_attention),
    "minilm": _grouped(transformer.minilm),
    "fsp": _grouped(relation.fsp),
    "rkd_distance": _pairs(relation.rkd_distance),
    "rkd_angle": _pairs(relation.rkd_angle),
    "similarity_preserving": _pairs(relation.similarity_preserving),
    "pkt": _pairs(relation.pkt),
    "correlation_congruence": _pairs(relation.correlation_congruence),
    "crd": _summed(_contrast),
}
"""`loss` word -> builder; tests/distillation/test_table.py holds it against the recipe's union."""
