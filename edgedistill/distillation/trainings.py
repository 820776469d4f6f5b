"""The trainings of a run as jobs that one process does, or several do together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedistill.data.splits import load
from edgedistill.distillation.cache import Plan, plan, write_cache
from edgedistill.distillation.objective.objective import wanted
from edgedistill.distillation.schemes import Classroom, distil, learn_labels, listening, share_size
from edgedistill.distillation.training.place import deterministic
from edgedistill.events import QUIET, Events
from edgedistill.models.weights import load_checkpoint
from edgedistill.recipe.document import EnsembleTeacher, FileTeacher, MultiStage, Mutual, SelfDistillation
from edgedistill.students.build import build
from edgedistill.teachers.build import build_teacher, members
from edgedistill.teachers.module import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from edgedistill.models.signals import Signal
    from edgedistill.recipe.document import Distill, Recipe, Train
    from edgedistill.teachers.build import Teacher


@dataclass(frozen=True)
class Training:
    """What a training needs to know, in a form that crosses process borders.

    Attributes:
        recipe: the recipe.
        beside: its folder.
        data: folder of the data stage.
        teacher: folder with the teacher's weights and files.
        student: folder with the student's initial weights.
        cache: folder with the teacher's answers, or None to run it.
        resume: folder for checkpoints and logs.
    """

    recipe: Recipe
    beside: Path
    data: Path
    teacher: Path
    resume: Path
    student: Path | None = None
    cache: Path | None = None

    def room(self, events: Events) -> Classroom:
        """What all trainings share."""
        return Classroom(self.recipe, self.beside, load(self.data), self.resume, events)


def train_teacher(job: Training, keep: Callable[[nn.Module], None] | None = None, events: Events = QUIET) -> None:
    """Build the teacher, and train those members that the recipe wants trained."""
    room = job.room(events)
    teacher = _teacher(job, room, trained=False)
    spec = job.recipe.teacher
    specs = spec.ensemble if isinstance(spec, EnsembleTeacher) else [spec]
    for number, (member, described) in enumerate(zip(members(teacher).items(), specs, strict=True)):
        name, module = member
        if not isinstance(described, FileTeacher) and described.train is not None:
            title = f"teacher.{name}" if name is not None else "teacher"
            learn_labels(room, title, module, described.train, job.recipe.seed + number)
    if keep is not None:
        keep(teacher)


def train_students(job: Training, keep: Callable[[nn.Module, str], None] | None = None, events: Events = QUIET) -> str:
    """Every student of the recipe, and the baselines beside them; returns the teacher's fingerprint.

    Args:
        job: what is needed.
        keep: takes a trained student and its name; the leading process has one.
        events: where progress goes.

    Raises:
        ModelError: the teacher changed, whatever the scheme.
    """
    room = job.room(events)
    settings, teacher = job.recipe.distill, _teacher(job, room, trained=True)
    before = fingerprint(teacher)
    for number in range(settings.seeds):
        seed = job.recipe.seed + number
        student = distil(room, student_name("student", number), _initial(job, room, number), teacher, job.cache, seed)
        if keep is not None:
            keep(student, student_name("student", number))
        if settings.baseline:
            name = student_name("student-labels-only", number)
            baseline = _initial(job, room, number)
            learn_labels(room, name, baseline, settings.model_copy(update={"epochs": passes(settings)}), seed)
            if keep is not None:
                keep(baseline, name)
    if fingerprint(teacher) != before:
        raise RuntimeError("the teacher changed while students were trained")  # `frozen` would have said so
    return before


def student_name(name: str, number: int) -> str:
    """The first student is the one; the others are named after their seed's distance."""
    return name if number == 0 else f"{name}.seed-{number}"


def passes(settings: Distill) -> int:
    """Passes over the data that one student makes."""
    if isinstance(settings.scheme, MultiStage):
        return sum(phase.epochs for phase in settings.scheme.phases)
    return settings.epochs


def teacher_signals(settings: Distill) -> tuple[Signal, ...]:
    """All that the scheme wants to hear from the recipe's teacher."""
    if isinstance(settings.scheme, Mutual | SelfDistillation):
        return ()
    if isinstance(settings.scheme, MultiStage):
        return wanted([term for phase in settings.scheme.phases for term in phase.objective]).teacher
    return wanted(settings.terms).teacher


def cached_train(settings: Distill) -> Train:
    """The training that reads the cache, as long as its longest phase."""
    if isinstance(settings.scheme, MultiStage):
        return settings.model_copy(update={"epochs": max(phase.epochs for phase in settings.scheme.phases)})
    return settings


def build_cache(job: Training, folder: Path, events: Events) -> Plan:
    """Decide about a cache, and write it if it is worth it.

    Raises:
        StorageError: it is demanded and does not fit.
    """
    room, settings = job.room(events), job.recipe.distill
    signals = teacher_signals(settings)
    train = cached_train(settings)
    with deterministic(job.recipe.seed, job.recipe.threads):
        lesson = room.lesson(train)
        teacher = _teacher(job, room, trained=True)
        with listening(teacher, signals, lesson.inputs[:2], share_size(train)) as live:
            shapes = live.shapes(room.data.classes)
            found = plan(settings.cache, train, settings.seeds * passes(settings), shapes, len(lesson.labels), folder)
            events.note(found.reason)
            if found.use:
                write_cache(
                    folder,
                    live,
                    shapes,
                    lesson.inputs,
                    settings.cache,
                    train,
                    job.recipe.seed,
                    events,
                )
    return found


def _teacher(job: Training, room: Classroom, *, trained: bool) -> Teacher:
    recipe = job.recipe
    teacher = build_teacher(recipe.teacher, room.data, job.beside, recipe.seed, job.teacher, restored=trained)
    if trained:
        load_checkpoint(teacher, job.teacher / "teacher.safetensors")
    return teacher.eval()


def _initial(job: Training, room: Classroom, number: int) -> nn.Module:
    """A student before its training; the first has the weights of the student stage."""
    recipe, data = job.recipe, room.data
    if number > 0 or job.student is None:
        return build(recipe.student, data.sample_shape, data.classes, job.beside, recipe.seed + number)
    spec = recipe.student.model_copy(update={"checkpoint": None})
    module = build(spec, data.sample_shape, data.classes, job.beside, recipe.seed)
    load_checkpoint(module, job.student / "initial.safetensors")
    return module
