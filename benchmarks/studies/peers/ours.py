"""EdgeDistill's own trainer on the same task, with its data handling, order of samples, records and checks."""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.studies.peers.task import ALPHA, LEARNING_RATE, MOMENTUM, TEMPERATURE, WEIGHT_DECAY
from edgedistill.distillation.cache import CachedTeacher, write_cache
from edgedistill.distillation.learners import Student
from edgedistill.distillation.objective.objective import Objective, wanted
from edgedistill.distillation.objective.table import Sides
from edgedistill.distillation.training.place import deterministic, epoch_batches
from edgedistill.distillation.training.trainer import Lesson, fit
from edgedistill.events import QUIET
from edgedistill.models.signals import LOGITS
from edgedistill.recipe.document import Cache, CrossEntropy, SoftTargets, Train
from edgedistill.teachers.live import LiveTeacher
from edgedistill.teachers.module import Adapted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from benchmarks.studies.peers.task import Task
    from edgedistill.distillation.training.trainer import Answers
    from edgedistill.recipe.document import Term

_SEED = 0
_LABELS: list[Term] = [CrossEntropy(loss="cross_entropy")]
_TAUGHT: list[Term] = [
    SoftTargets(loss="soft_targets", weight=ALPHA, temperature=TEMPERATURE),
    CrossEntropy(loss="cross_entropy", weight=1 - ALPHA),
]


def labels_only(task: Task) -> Callable[[], nn.Module]:
    """The student alone, on the labels."""
    return _training(task, _LABELS, None, _folder())


def cached(task: Task) -> Callable[[], nn.Module]:
    """The teacher's logits come from the cache on disk, written before the clock started."""
    folder, live = _folder(), _live(task)
    inputs, _ = _stored(task)
    shapes = live.shapes(task.classes)
    write_cache(folder, live, shapes, inputs, Cache(), _settings(task), _SEED, QUIET)
    return _training(task, _TAUGHT, CachedTeacher(folder), folder)


def online(task: Task) -> Callable[[], nn.Module]:
    """The teacher runs on every batch."""
    return _training(task, _TAUGHT, _live(task), _folder())


def _training(task: Task, terms: Sequence[Term], answers: Answers | None, folder: Path) -> Callable[[], nn.Module]:
    """A run as a recipe makes it: with checkpoints and logs in a folder, and deterministic kernels alone."""
    student = task.student()
    inputs, labels = _stored(task)
    nobody = torch.arange(0)
    lesson = Lesson(inputs, labels, torch.arange(len(inputs)), nobody, _SEED, answers)
    learner = Student(student, wanted(terms).student, inputs[: task.batch])
    logits = {LOGITS: (task.classes,)}
    objective = Objective(terms, Sides(logits, logits, len(inputs), {}), 1, _SEED)

    def train() -> nn.Module:
        with deterministic(_SEED, threads=1):
            fit(learner, objective, lesson, _settings(task), _SEED, folder=folder)
        return student

    return train


def _settings(task: Task) -> Train:
    return Train(
        epochs=1,
        batch_size=task.batch,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        lr_schedule="constant",
    )


def _live(task: Task) -> LiveTeacher:
    teacher = Adapted(task.teacher(), affine=None, output=None, name="teacher")
    return LiveTeacher(teacher, wanted(_TAUGHT).teacher, task.inputs[0], task.batch)


def _folder() -> Path:
    """A folder of its own, taken away when the process ends."""
    made = tempfile.TemporaryDirectory()
    atexit.register(made.cleanup)
    return Path(made.name)


def _stored(task: Task) -> tuple[Tensor, Tensor]:
    """The samples, stored so that the trainer's own shuffle brings them in the task's order."""
    inputs, labels = task.inputs.flatten(0, 1), task.labels.flatten(0, 1)
    order = torch.cat(epoch_batches(torch.arange(len(inputs)), task.batch, _SEED, 0))
    return inputs[order.argsort()], labels[order.argsort()]
