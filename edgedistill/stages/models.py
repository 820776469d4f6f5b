"""Torch models in stages: built as the recipe says, with the weights of an earlier stage, kept for later ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edgedistill.storage import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from edgedistill.data.splits import Data
    from edgedistill.models.key import Model
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.teachers.build import Teacher
    from edgedistill.types import Array, Normalization, Signature

T = TypeVar("T")
STUDENT = "student"
ROUNDED = "student-qat"
"""The student trained on with its rounding: the model whose outputs trained files are compared with."""


def built(work: Work, spec: Model, data: Data) -> nn.Module:
    """A model with the initial weights of the recipe's seed, or those of its checkpoint."""
    from edgedistill.students.build import build

    return build(spec, data.sample_shape, data.classes, work.beside, work.recipe.seed)


def trained_student(work: Work, data: Data, distilled: Stage) -> nn.Module:
    """The student of the stage `distill`, in eval mode."""
    from edgedistill.models.weights import load_checkpoint

    module = built(work, work.recipe.student.model_copy(update={"checkpoint": None}), data)
    load_checkpoint(module, distilled.path / f"{STUDENT}.safetensors")
    return module.eval()


def trained_teacher(work: Work, data: Data, teacher: Stage) -> Teacher:
    """The teacher of the stage `teacher`, in eval mode."""
    from edgedistill.models.weights import load_checkpoint
    from edgedistill.teachers.build import build_teacher

    recipe = work.recipe
    module = build_teacher(recipe.teacher, data, work.beside, recipe.seed, teacher.path, restored=True)
    load_checkpoint(module, teacher.path / "teacher.safetensors")
    return module


def keep(module: nn.Module, name: str, data: Data, out: Path) -> None:
    """Weights, facts, and the logits and quality over the evaluation split."""
    from edgedistill.models.facts import facts, save_facts
    from edgedistill.models.weights import save_weights
    from edgedistill.tasks.classification import quality
    from edgedistill.teachers.module import logits_of

    save_weights(module, out / f"{name}.safetensors")
    save_facts(facts(module, data.sample_shape), out / "facts.json")
    logits = logits_of(module, data.eval_inputs).numpy()
    np.save(out / f"{name}.eval_logits.npy", logits)
    write_json(quality(logits, np.asarray(data.eval_labels)), out / f"{name}.quality.json")


def kept_logits(stage: Stage, name: str) -> Array:
    """The logits that `keep` wrote, (samples, classes)."""
    logits: Array = np.load(stage.path / f"{name}.eval_logits.npy", allow_pickle=False)
    return logits


def files_signature(work: Work, data: Data, distilled: Stage) -> Signature:
    """Of the files: what the recipe folds into their graphs is no longer the application's."""
    from edgedistill.models.folding import folded_signature
    from edgedistill.tasks.classification import signature

    folds = work.recipe.export.fold
    if not folds:
        return signature(data)
    return folded_signature(signature(data), folds, kept_logits(distilled, STUDENT), "export.fold")


def with_surroundings(work: Work, module: nn.Module, normalization: Normalization) -> nn.Module:
    """The model with what the recipe folds into its graph."""
    from edgedistill.models.folding import Folded

    folds = work.recipe.export.fold
    return Folded(module, normalization, folds).eval() if folds else module
