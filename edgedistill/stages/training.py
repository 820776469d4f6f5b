"""Trainings in stages: what they need to know, and doing one, alone or with other processes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, TypeVar

from edgedistill.runs import RESUME
from edgedistill.storage import read_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgedistill.distillation.rounding.training import RoundedTraining
    from edgedistill.distillation.trainings import Training
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work

T = TypeVar("T")


def training(work: Work, data: Stage, teacher: Path, out: Path) -> Training:
    """What the trainings of a stage need to know; what they leave to go on from outlives a kill."""
    from edgedistill.distillation.trainings import Training

    return Training(work.recipe, work.beside.resolve(), data.path, teacher, out / RESUME)


def train(
    work: Work,
    verb: Callable[..., T],
    job: Training | RoundedTraining,
    keep_trained: Callable[..., None],
    processes: int,
) -> T:
    """Do a training here, and in other processes if it asks for several or torchrun started them; what it returns."""
    from edgedistill.distillation.training.distributed import share, together

    with together(processes):
        share((verb, (job,)))
        result = verb(job, keep_trained, work.events)
    for logs in sorted(job.resume.glob("*/logs")):
        target = work.root / "logs" / "training" / logs.parent.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(logs, target)
    return result


def cached_answers(cache: Stage) -> Path | None:
    """Folder of the teacher's answers, where the stage `cache` keeps them."""
    return cache.path if read_json(cache.path / "plan.json")["use"] else None
