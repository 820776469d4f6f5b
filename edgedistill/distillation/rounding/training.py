"""Quantisation-aware distillation: the student learns from its teacher with the rounding of its int8 file in place.

Source: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018; A. Mishra, D. Marr, "Apprentice", ICLR 2018 (the teacher beside it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgedistill.distillation.rounding.equalizing import equalize
from edgedistill.distillation.rounding.graph import WEIGHT_AXIS, graph_of, shared_ranges
from edgedistill.distillation.rounding.ranges import LearnedRange, rounded_weights
from edgedistill.distillation.schemes import TaughtBy, train, without_layers
from edgedistill.distillation.training.place import deterministic
from edgedistill.distillation.trainings import cached_train, passes
from edgedistill.events import QUIET
from edgedistill.models.graph import Recording, operator_name
from edgedistill.models.weights import load_checkpoint
from edgedistill.recipe.document import MultiStage
from edgedistill.recipe.terms import SoftTargets
from edgedistill.students.build import build
from edgedistill.teachers.build import build_teacher
from edgedistill.types import TrainedRange

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jaxtyping import Float
    from torch.fx.node import Argument, Target

    from edgedistill.distillation.trainings import Training
    from edgedistill.events import Events
    from edgedistill.recipe.document import Distill, Recipe, Term
    from edgedistill.types import Array

_PROBES = 2
"""Samples by which a tensor is known again in a file."""
_BATCH = 16
_SHARE_OF_EPOCHS, _SHARE_OF_RATE = 0.5, 0.2
_VALUES = 4096
"""Values kept of a tensor per batch of calibration samples, beside its extremes."""


class QuantizedStudent(nn.Module):
    """A student that computes with rounded weights and activations.

    Batch norms are folded into the convolutions before them, as every converter does, and the ranges of channels are
    equalised where that changes nothing else: what is trained is what is written.

    Args:
        student: a trained module, one tensor in, one out; it is left as it is.
        samples: calibration samples, model-ready.

    Attributes:
        graph: the same student without rounding, its weights being trained here: what exporters take.
        ranges: the trained ends of each stored tensor, by its name in the graph.

    Raises:
        ModelError: torch.export cannot make a graph of it.
    """

    def __init__(self, student: nn.Module, samples: Float[Tensor, "n ..."]) -> None:
        super().__init__()
        self.graph = graph_of(student, samples)
        equalize(self.graph, samples)
        self.shares = shared_ranges(self.graph.graph)
        points = sorted(set(self.shares.values()))
        self.ranges = nn.ModuleDict({point: LearnedRange() for point in points})
        for point, values in _values(self.graph, points, samples).items():
            self._range(point).calibrate(values)

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Logits, every stored tensor rounded."""
        logits: Tensor = _Rounding(self.graph, self.ranges).run(inputs)
        return logits

    def trained_ranges(self, inputs: Float[Tensor, "n ..."]) -> list[TrainedRange]:
        """Every rounded tensor: its trained ends, and its unrounded values for the first two inputs."""
        seen: dict[str, list[Array]] = {name: [] for name in self.shares}

        def see(name: str, value: Tensor) -> None:
            if name in seen:
                seen[name].append(value.flatten().numpy().copy())

        with torch.no_grad():
            for row in inputs[:_PROBES]:
                Recording(self.graph, see).run(row[None])
        ends = {point: self._range(point).bounds() for point in set(self.shares.values())}
        return [TrainedRange(name, *ends[point], tuple(seen[name])) for name, point in self.shares.items()]

    def _range(self, point: str) -> LearnedRange:
        return cast("LearnedRange", self.ranges[point])


class _Rounding(fx.Interpreter):
    """Runs the graph, rounding weights where they are used and results where they are stored."""

    def __init__(self, graph: fx.GraphModule, ranges: nn.ModuleDict) -> None:
        super().__init__(graph)
        self.ranges = ranges

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        return self.ranges[n.name](value) if n.name in self.ranges else value

    def call_function(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Argument]) -> object:
        axis = WEIGHT_AXIS.get(operator_name(target))
        if axis is not None and isinstance(args[1], nn.Parameter):
            args = (args[0], rounded_weights(args[1], axis), *args[2:])
        return super().call_function(target, args, kwargs)


def _values(graph: fx.GraphModule, points: list[str], samples: Tensor) -> dict[str, Tensor]:
    """Values of some tensors over all samples: the extremes, and an even draw of the others."""
    kept: dict[str, list[Tensor]] = {point: [] for point in points}

    def see(name: str, value: Tensor) -> None:
        if name in kept:
            flat = value.flatten()
            kept[name] += [flat[:: -(-len(flat) // _VALUES)].clone(), flat.min()[None], flat.max()[None]]

    with torch.no_grad():
        for batch in torch.split(samples, _BATCH):
            Recording(graph, see).run(batch)
    return {point: torch.cat(parts) for point, parts in kept.items()}


@dataclass(frozen=True)
class RoundedTraining:
    """One quantisation-aware training, in a form that crosses process borders.

    Attributes:
        job: the run's trainings; its recipe says how the student learned, `student` is not used.
        weights: the trained student's weights.
        settings: of this training.
        samples: calibration samples, model-ready.
        held_out: rows of the training split that are not learned: they judge the files.
    """

    job: Training
    weights: Path
    settings: Distill
    samples: Array
    held_out: tuple[int, ...] = ()

    @property
    def resume(self) -> Path:
        """Folder for checkpoints and logs."""
        return self.job.resume


def qat_settings(recipe: Recipe) -> Distill:
    """How the student learned, for fewer epochs and at a lower rate, as far as `quantize.qat` does not say otherwise.

    In fp32 without compilation, a warm-up or an average of weights: what is trained on is a trained student already.
    """
    given, qat = recipe.distill, recipe.quantize.qat
    return given.model_copy(
        update={
            "epochs": qat.epochs or max(1, round(_SHARE_OF_EPOCHS * passes(given))),
            "learning_rate": qat.learning_rate or _SHARE_OF_RATE * given.learning_rate,
            "warmup_epochs": 0.0,
            "ema": None,
            "precision": "fp32",
            "compile": False,
        }
    )


def train_quantized(
    work: RoundedTraining, keep: Callable[[QuantizedStudent], None] | None = None, events: Events = QUIET
) -> None:
    """Fine-tune the trained student with its rounding, taught by the recipe's teacher; `keep` takes the result.

    Raises:
        ModelError: no graph can be made of the student, the loss is not finite, or the teacher changed.
    """
    job, recipe = work.job, work.job.recipe
    room = replace(job.room(events), held_out=work.held_out)
    data = room.data
    spec = recipe.student.model_copy(update={"checkpoint": None})
    student = build(spec, data.sample_shape, data.classes, job.beside, recipe.seed)
    load_checkpoint(student, work.weights)
    teacher = build_teacher(recipe.teacher, data, job.beside, recipe.seed, job.teacher, restored=True)
    load_checkpoint(teacher, job.teacher / "teacher.safetensors")
    with deterministic(recipe.seed, recipe.threads):
        quantized = QuantizedStudent(student, torch.from_numpy(np.array(work.samples)))
    kept = work.settings.augment is None or work.settings.epochs <= cached_train(recipe.distill).epochs
    source = TaughtBy(teacher.eval(), job.cache if kept else None)  # the cache holds no views of later epochs
    train(room, "student-qat", quantized, terms(recipe.distill), source, work.settings, recipe.seed)
    if keep is not None:
        keep(quantized)


def restored(student: nn.Module, samples: Float[Tensor, "n ..."], weights: Path) -> QuantizedStudent:
    """A student as `train_quantized` left it.

    Args:
        student: before that training.
        samples: two or more of any; the ranges are those of the file.
        weights: the trained state.
    """
    quantized = QuantizedStudent(student, samples[:_PROBES])
    load_checkpoint(quantized, weights)
    return quantized.eval()


def terms(settings: Distill) -> list[Term]:
    """The objective on logits and labels, as the student learned at last; soft targets where it has none.

    Terms on layers are left out: the graph has no layers.
    """
    scheme = settings.scheme
    learned = scheme.phases[-1].objective if isinstance(scheme, MultiStage) else settings.terms
    plain = [term for term in learned if not term.pairs]
    if any(term.taught for term in plain):
        return without_layers(learned)
    return [SoftTargets(loss="soft_targets", weight=1.0, temperature=settings.temperature), *plain]
