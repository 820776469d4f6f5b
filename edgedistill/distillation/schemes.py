"""Who teaches whom, and in which order: one function a scheme, all ending in a trained student."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.distillation.cache import CachedTeacher
from edgedistill.distillation.learners import Cohort, Student
from edgedistill.distillation.objective.objective import Objective, wanted
from edgedistill.distillation.objective.peers import MutualObjective, SelfObjective
from edgedistill.distillation.objective.table import Sides
from edgedistill.distillation.training.distributed import world
from edgedistill.distillation.training.place import deterministic, mixed
from edgedistill.distillation.training.trainer import Lesson, fit
from edgedistill.errors import ModelError
from edgedistill.models.signals import LOGITS, Signal
from edgedistill.recipe.document import (
    Assistants,
    BornAgain,
    CrossEntropy,
    Distill,
    MultiStage,
    Mutual,
    Offline,
    SelfDistillation,
)
from edgedistill.students.build import build
from edgedistill.teachers.build import members
from edgedistill.teachers.live import LiveTeacher
from edgedistill.teachers.module import Adapted, frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgedistill.data.splits import Data
    from edgedistill.events import Events
    from edgedistill.recipe.document import Recipe, Term, Train
    from edgedistill.recipe.models import StudentModel
    from edgedistill.teachers.build import Teacher


@dataclass(frozen=True)
class Classroom:
    """What every training of a run shares.

    Attributes:
        recipe: the recipe.
        beside: its folder.
        data: the splits.
        resume: folder for checkpoints and logs, one below it a training.
        events: where progress goes.
        held_out: rows of the training split that are not learned.
    """

    recipe: Recipe
    beside: Path
    data: Data
    resume: Path
    events: Events
    held_out: tuple[int, ...] = ()

    def lesson(self, settings: Train) -> Lesson:
        """All training samples; those of the validation split are drawn by the recipe's seed, class by class."""
        labels = torch.tensor(np.asarray(self.data.train_labels))
        rows = torch.arange(len(labels))
        kept = _validation(labels, settings.validation_fraction, self.recipe.seed)
        learned = rows[~torch.isin(rows, torch.cat([kept, torch.tensor(self.held_out, dtype=torch.int64)]))]
        return Lesson(torch.tensor(np.asarray(self.data.train_inputs)), labels, learned, kept, self.recipe.seed)

    def build(self, spec: StudentModel, seed: int) -> nn.Module:
        """A student with the initial weights of a seed."""
        return build(spec, self.data.sample_shape, self.data.classes, self.beside, seed)


def learn_labels(room: Classroom, name: str, module: nn.Module, settings: Train, seed: int) -> None:
    """Train on the labels alone: teachers and baselines."""
    train(room, name, module, [CrossEntropy(loss="cross_entropy")], None, settings, seed)


def distil(
    room: Classroom, name: str, initial: nn.Module, teacher: Teacher, cache: Path | None, seed: int
) -> nn.Module:
    """Train a student from its initial weights by the recipe's scheme.

    Args:
        room: what all trainings share.
        name: of the student, for logs and checkpoints.
        initial: the student; trained in place where the scheme has one student.
        teacher: the teacher.
        cache: folder with its answers, or None to run it.
        seed: of this student.
    """
    settings = room.recipe.distill
    match settings.scheme:
        case Offline():
            train(room, name, initial, settings.terms, TaughtBy(teacher, cache), settings, seed)
            return initial
        case MultiStage():
            return _multi_stage(room, name, initial, TaughtBy(teacher, cache), settings.scheme, seed)
        case Assistants():
            return _assistants(room, name, initial, TaughtBy(teacher, cache), settings.scheme, seed)
        case BornAgain():
            return _born_again(room, name, initial, TaughtBy(teacher, cache), settings.scheme, seed)
        case Mutual():
            return _mutual(room, name, initial, settings.scheme, seed)
        case SelfDistillation():
            return _self(room, name, initial, settings.scheme, seed)


@dataclass(frozen=True)
class TaughtBy:
    """A teacher, and the folder of its kept answers if there is one."""

    teacher: Teacher
    cache: Path | None = None


def _multi_stage(
    room: Classroom, name: str, student: nn.Module, source: TaughtBy, scheme: MultiStage, seed: int
) -> nn.Module:
    for number, phase in enumerate(scheme.phases):
        settings = phase_settings(room.recipe.distill, number)
        train(room, f"{name}.phase-{number}", student, phase.objective, source, settings, seed)
    return student


def phase_settings(settings: Distill, number: int) -> Distill:
    """The settings of one phase of multi-stage training."""
    if not isinstance(settings.scheme, MultiStage):
        return settings
    phase = settings.scheme.phases[number]
    rate = phase.learning_rate if phase.learning_rate is not None else settings.learning_rate
    return settings.model_copy(update={"epochs": phase.epochs, "learning_rate": rate})


def _assistants(
    room: Classroom, name: str, student: nn.Module, source: TaughtBy, scheme: Assistants, seed: int
) -> nn.Module:
    """Teacher, assistants and student in a chain; layers of the objective are those of teacher and student's like."""
    settings = room.recipe.distill
    between = without_layers(settings.terms)
    for number, spec in enumerate(scheme.chain):
        assistant = room.build(spec, mixed(seed, number + 1))
        train(room, f"{name}.assistant-{number}", assistant, between, source, settings, mixed(seed, number + 1))
        source = TaughtBy(Adapted(assistant, None, None, f"assistant {number}").eval())
    train(room, name, student, settings.terms, source, settings, seed)
    return student


def _born_again(
    room: Classroom, name: str, student: nn.Module, source: TaughtBy, scheme: BornAgain, seed: int
) -> nn.Module:
    """Generation after generation of the same architecture; the last one is the student."""
    settings = room.recipe.distill
    terms = settings.terms
    for number in range(scheme.generations - 1):
        child = room.build(room.recipe.student, mixed(seed, number + 1))
        train(room, f"{name}.generation-{number}", child, terms, source, settings, mixed(seed, number + 1))
        source, terms = (
            TaughtBy(Adapted(child, None, None, f"generation {number}").eval()),
            without_layers(settings.terms),
        )
    train(room, name, student, terms, source, settings, seed)
    return student


def _mutual(room: Classroom, name: str, student: nn.Module, scheme: Mutual, seed: int) -> nn.Module:
    """A cohort of equals with different initial weights; the first is the student."""
    settings = room.recipe.distill
    others = [room.build(room.recipe.student, mixed(seed, number)) for number in range(1, scheme.peers)]
    with deterministic(seed, room.recipe.threads):
        cohort = Cohort([student, *others])
        objective = MutualObjective(scheme.peers, scheme.temperature, scheme.weight)
        _fit(room, name, cohort, objective, room.lesson(settings), settings, seed)
    return student


def _self(room: Classroom, name: str, student: nn.Module, scheme: SelfDistillation, seed: int) -> nn.Module:
    """Exits at the named layers learn from the last one."""
    settings = room.recipe.distill
    signals = [Signal(layer) for layer in scheme.layers]
    with deterministic(seed, room.recipe.threads):
        lesson = room.lesson(settings)
        learner = Student(student, signals, lesson.inputs[:2])
        shapes = learner.shapes
        objective = SelfObjective(
            {s: shapes[s] for s in signals}, room.data.classes, scheme.temperature, scheme.alpha, seed
        )
        _fit(room, name, learner, objective, lesson, settings, seed)
    return student


def train(
    room: Classroom,
    name: str,
    module: nn.Module,
    terms: Sequence[Term],
    source: TaughtBy | None,
    settings: Train,
    seed: int,
) -> None:
    """One training of one student, in place, under an objective of the recipe's terms.

    Raises:
        ModelError: layers that do not exist or do not fit, or a loss that is not finite.
    """
    want = wanted(terms)
    if want.teacher and source is None:
        raise ModelError("the objective needs a teacher", where=f"objective of {name}")
    with deterministic(seed, room.recipe.threads):
        lesson = room.lesson(settings)
        example = lesson.inputs[:2]
        learner = Student(module, want.student, example)
        with _taught(source, want.teacher, example, settings) as (live, answers):
            sides = Sides(
                {LOGITS: (room.data.classes,), **learner.shapes},
                _teacher_shapes(live, room.data.classes),
                len(lesson.labels),
                _batch_norms(live),
            )
            objective = Objective(terms, sides, settings.epochs, seed)
            taught = Lesson(lesson.inputs, lesson.labels, lesson.rows, lesson.validation, lesson.seed, answers)
            _fit(room, name, learner, objective, taught, settings, seed)


@contextmanager
def listening(teacher: Teacher, signals: Sequence[Signal], example: Tensor, batch_size: int) -> Iterator[LiveTeacher]:
    """The teacher, frozen, with hooks on what is listened to."""
    with frozen(teacher):
        live = LiveTeacher(teacher, signals, example, batch_size)
        try:
            yield live
        finally:
            live.close()


@contextmanager
def _taught(
    source: TaughtBy | None, signals: tuple[Signal, ...], example: Tensor, settings: Train
) -> Iterator[tuple[LiveTeacher | None, LiveTeacher | CachedTeacher | None]]:
    """The live teacher, and who answers: its cache in its place, where that holds all that is asked."""
    if source is None or not signals:
        yield None, None
        return
    with listening(source.teacher, signals, example, share_size(settings)) as live:
        cached = CachedTeacher(source.cache) if source.cache is not None else None
        yield live, cached if cached is not None and set(signals) <= cached.signals else live


def share_size(settings: Train) -> int:
    """Samples of a batch that one process runs."""
    return -(-settings.batch_size // world().size)


def _teacher_shapes(live: LiveTeacher | None, classes: int) -> dict[Signal, tuple[int, ...]]:
    return live.shapes(classes) if live is not None else {}


def _batch_norms(live: LiveTeacher | None) -> dict[Signal, nn.BatchNorm2d]:
    """The layers behind signals that are batch norms."""
    if live is None:
        return {}
    found = {}
    known = members(live.teacher)
    for signal, resolved in live.asked.items():
        if resolved.layer is not None:
            layer = known[resolved.member].module.get_submodule(resolved.layer.partition("#")[0])
            if isinstance(layer, nn.BatchNorm2d):
                found[signal] = layer
    return found


def _fit(
    room: Classroom,
    name: str,
    learner: Student | Cohort,
    objective: nn.Module,
    lesson: Lesson,
    settings: Train,
    seed: int,
) -> None:
    try:
        fit(learner, objective, lesson, settings, seed, folder=room.resume / name, name=name, events=room.events)
    finally:
        learner.close()


def without_layers(terms: Sequence[Term]) -> list[Term]:
    """The terms that any pair of models understands: on logits and labels.

    Raises:
        ModelError: there is none that listens to the teacher.
    """
    kept = [term for term in terms if not term.pairs]
    if not wanted(kept).teacher:
        raise ModelError(
            "the objective names layers only, and an assistant has others",
            where="distill.objective",
            expected="at least one term on logits, which the assistants learn by",
            got=", ".join(term.loss for term in terms),
            fix="add soft_targets to the objective",
        )
    return kept


def _validation(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Rows for validation, drawn class by class among the labelled samples."""
    if fraction == 0:
        return torch.zeros(0, dtype=torch.int64)
    generator = torch.Generator().manual_seed(mixed(seed, 1))
    kept = []
    for label in torch.unique(labels[labels >= 0]):
        rows = torch.nonzero(labels == label).flatten()
        count = min(len(rows) - 1, max(1, round(fraction * len(rows))))  # every class stays in both
        kept.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return torch.cat(kept).sort().values
