"""The teacher: built, its checkpoint loaded, trained if the recipe says so; run once over the evaluation split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.recipe.teachers import EnsembleTeacher, FileTeacher

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.recipe.teachers import Teacher
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.types import Json

NAME = "teacher"
READS = ("seed", "threads", "teacher")
SEES: tuple[str, ...] = ()
USES: tuple[Shelf, ...] = ()


def check(work: Work) -> None:
    """A file that is not there is told by `key`."""
    del work


def key(work: Work) -> Json:
    """Its code and weights, and what trains it."""
    from edgedistill.stages.keys import model_keys, training_tools

    return {"models": model_keys(work, "teacher"), "tools": training_tools()}


def make(work: Work, data: Stage, *, out: Path) -> None:
    """Build, train, keep."""
    from edgedistill.distillation.trainings import train_teacher
    from edgedistill.stages.files import load_data
    from edgedistill.stages.models import keep
    from edgedistill.stages.training import train, training
    from edgedistill.teachers.build import build_teacher

    splits = load_data(data)
    build_teacher(work.recipe.teacher, splits, work.beside, work.recipe.seed, out)  # writes what black boxes need
    job = training(work, data, out, out)
    train(work, train_teacher, job, lambda module: keep(module, NAME, splits, out), _processes(work.recipe.teacher))


def _processes(spec: Teacher) -> int:
    """Most that the training of a member asks for."""
    members = spec.ensemble if isinstance(spec, EnsembleTeacher) else [spec]
    return max((m.train.devices for m in members if not isinstance(m, FileTeacher) and m.train is not None), default=1)
