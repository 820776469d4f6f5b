"""The teacher's answers, where keeping them pays."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from edgedistill.recipe.training import MultiStage

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.recipe.training import Distill
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.types import Json

NAME = "cache"
READS = ("seed", "threads")
SEES = ("teacher", "distill")  # the key of the model; `asked` of the training
USES: tuple[Shelf, ...] = ()
_TEACHERS_SIDE = {"teacher", "teacher_layers", "capture"}
"""What a term of an objective asks of the teacher; the rest is the loss's own."""


def check(work: Work) -> None:
    """Nothing can be known before the teacher is there."""
    del work


def key(work: Work) -> Json:
    """What is asked of which teacher."""
    from edgedistill.stages.keys import model_keys, training_tools

    return {"models": model_keys(work, "teacher"), "asked": asked(work.recipe.distill), "tools": training_tools()}


def asked(settings: Distill) -> Json:
    """What the teacher's kept answers depend on in the recipe's training section."""
    scheme = settings.scheme
    phases = scheme.phases if isinstance(scheme, MultiStage) else ()
    epochs = [phase.epochs for phase in phases] or [settings.epochs]
    objectives = [phase.objective for phase in phases] or [settings.terms]
    views = 1 if settings.augment is None else settings.augment.views or max(epochs)
    return {
        "signals": [
            [term.model_dump(mode="json", include=_TEACHERS_SIDE) for term in terms if term.loss != "cross_entropy"]
            for terms in objectives
        ],
        "scheme": scheme.kind,
        "cache": settings.cache.model_dump(mode="json"),
        "augment": None if settings.augment is None else settings.augment.model_dump(mode="json"),
        "batch_size": settings.batch_size,
        "views": min(views, max(epochs)),
        "pays": settings.seeds * sum(epochs) > min(views, max(epochs)),
    }


def make(work: Work, data: Stage, teacher: Stage, *, out: Path) -> None:
    """Decide, and run the teacher over all views if it pays."""
    from edgedistill.distillation.trainings import build_cache
    from edgedistill.stages.training import training
    from edgedistill.storage import write_json

    found = build_cache(training(work, data, teacher.path, out), out, work.events)
    write_json(asdict(found), out / "plan.json")
