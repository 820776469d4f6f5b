"""The student as it starts: seeded initial weights, or its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.types import Json

NAME = "student"
READS = ("seed", "threads")
SEES = ("student", "export.formats")  # the key of the model; formats can only refuse it
USES: tuple[Shelf, ...] = ()


def check(work: Work) -> None:
    """A checkpoint that is not there is told by `key`."""
    del work


def key(work: Work) -> Json:
    """Its description, code and weights."""
    from edgedistill.stages.keys import model_keys, training_tools

    return {"models": model_keys(work, "student"), "tools": training_tools()}


def make(work: Work, data: Stage, *, out: Path) -> None:
    """Build and keep, unless a format takes no such model: that is told before hours of training."""
    from edgedistill.conversion.operators import require_convertible
    from edgedistill.models.facts import facts, save_facts
    from edgedistill.models.weights import save_weights
    from edgedistill.stages.files import load_data
    from edgedistill.stages.models import built
    from edgedistill.tasks.classification import signature

    splits = load_data(data)
    module = built(work, work.recipe.student, splits)
    save_weights(module, out / "initial.safetensors")
    save_facts(facts(module, splits.sample_shape), out / "facts.json")
    require_convertible(module.eval(), NAME, signature(splits), work.recipe.export.formats)
