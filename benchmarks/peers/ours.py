"""EdgeDistill's own trainer on the same task, with its data handling, order of samples, records and checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.peers.task import ALPHA, LEARNING_RATE, MOMENTUM, TEMPERATURE, WEIGHT_DECAY
from edgedistill.distillation.learners import Student
from edgedistill.distillation.objective import Objective, Sides, wanted
from edgedistill.distillation.trainer import Lesson, deterministic, epoch_batches, fit
from edgedistill.recipe import CrossEntropy, SoftTargets, Train
from edgedistill.teachers.answers import LOGITS, LiveTeacher
from edgedistill.teachers.module import Adapted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from benchmarks.peers.task import Task
    from edgedistill.distillation.trainer import Answers
    from edgedistill.recipe import Term
    from edgedistill.teachers.answers import Signals
    from edgedistill.types import Array

_SEED = 0
_LABELS: list[Term] = [CrossEntropy(loss="cross_entropy")]
_TAUGHT: list[Term] = [
    SoftTargets(loss="soft_targets", weight=ALPHA, temperature=TEMPERATURE),
    CrossEntropy(loss="cross_entropy", weight=1 - ALPHA),
]


def labels_only(task: Task) -> Callable[[], nn.Module]:
    """The student alone, on the labels."""
    return _training(task, _LABELS, None)


def cached(task: Task) -> Callable[[], nn.Module]:
    """The teacher's logits come from the cache, filled before the clock started."""
    live, (inputs, _) = _live(task), _stored(task)
    parts = torch.split(torch.arange(len(inputs)), task.batch)
    kept = torch.cat([live(part.numpy(), 0, inputs[part])[LOGITS] for part in parts])

    def answers(rows: Array, view: int, inputs: Tensor) -> Signals:  # noqa: ARG001 - what a live teacher would need
        return {LOGITS: kept[torch.from_numpy(rows)]}

    return _training(task, _TAUGHT, answers)


def online(task: Task) -> Callable[[], nn.Module]:
    """The teacher runs on every batch."""
    return _training(task, _TAUGHT, _live(task))


def _training(task: Task, terms: Sequence[Term], answers: Answers | None) -> Callable[[], nn.Module]:
    student = task.student()
    inputs, labels = _stored(task)
    nobody = torch.arange(0)
    lesson = Lesson(inputs, labels, torch.arange(len(inputs)), nobody, _SEED, answers)
    learner = Student(student, wanted(terms).student, inputs[: task.batch])
    shapes = {LOGITS: (task.classes,)}
    objective = Objective(terms, Sides(shapes, shapes, len(inputs), {}), 1, _SEED)
    settings = Train(
        epochs=1,
        batch_size=task.batch,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        lr_schedule="constant",
    )

    def train() -> nn.Module:
        with deterministic(_SEED, threads=1):
            fit(learner, objective, lesson, settings, _SEED)
        return student

    return train


def _live(task: Task) -> LiveTeacher:
    teacher = Adapted(task.teacher(), affine=None, output=None, name="teacher")
    return LiveTeacher(teacher, wanted(_TAUGHT).teacher, task.inputs[0], task.batch)


def _stored(task: Task) -> tuple[Tensor, Tensor]:
    """The samples, stored so that the trainer's own shuffle brings them in the task's order."""
    inputs, labels = task.inputs.flatten(0, 1), task.labels.flatten(0, 1)
    order = torch.cat(epoch_batches(torch.arange(len(inputs)), task.batch, _SEED, 0))
    return inputs[order.argsort()], labels[order.argsort()]
