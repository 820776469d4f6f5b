"""The students by the recipe's scheme; the baselines on labels alone, same starts and budget."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgedistill.recipe.training import Assistants

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.types import Json

NAME = "distill"
READS = ("seed", "threads", "distill")
SEES = ("teacher", "student")  # the keys of the models
USES: tuple[Shelf, ...] = ()


def check(work: Work) -> None:
    """Files that are not there are told by `key`."""
    del work


def key(work: Work) -> Json:
    """The models, those between teacher and student among them, and what trains."""
    from edgedistill.models.key import model_key
    from edgedistill.stages.keys import model_keys, training_tools

    scheme = work.recipe.distill.scheme
    chain = scheme.chain if isinstance(scheme, Assistants) else []
    assistants = [model_key(spec, work.beside) for spec in chain]
    return {"models": model_keys(work, "teacher", "student"), "assistants": assistants, "tools": training_tools()}


def make(work: Work, data: Stage, teacher: Stage, student: Stage, cache: Stage, *, out: Path) -> None:
    """Train, keep, and say that the teacher is what it was."""
    from edgedistill.distillation.trainings import train_students
    from edgedistill.stages.files import load_data
    from edgedistill.stages.models import keep
    from edgedistill.stages.training import cached_answers, train, training
    from edgedistill.storage import write_json

    splits = load_data(data)
    job = replace(training(work, data, teacher.path, out), student=student.path, cache=cached_answers(cache))
    processes = work.recipe.distill.devices
    unchanged = train(work, train_students, job, lambda module, name: keep(module, name, splits, out), processes)
    write_json({"teacher_sha256_before_and_after": unchanged}, out / "teacher.json")
