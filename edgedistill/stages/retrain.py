"""The student, trained on with its rounding where that is needed; its outputs over the evaluation split."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.stages.samples import CALIBRATION, LAYOUT

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.data.splits import Data
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.types import Json

NAME = "retrain"
READS = (
    "threads",
    "distill",
    *CALIBRATION,
    "quantize.validation_samples",
    "quantize.qat.epochs",
    "quantize.qat.learning_rate",
)
SEES = ("teacher", "student", LAYOUT)  # the keys of the models
USES: tuple[Shelf, ...] = ()


def check(work: Work) -> None:
    """Nothing can be known before there are calibrated files."""
    del work


def key(work: Work) -> Json:
    """The models, the calibration file, and what trains."""
    from edgedistill.stages.keys import model_keys, training_tools
    from edgedistill.stages.samples import calibration_digest

    return {
        "models": model_keys(work, "teacher", "student"),
        "calibration": calibration_digest(work),
        "tools": training_tools(),
    }


def make(work: Work, data: Stage, teacher: Stage, distilled: Stage, cache: Stage, *, wanted: bool, out: Path) -> None:
    """Train if it is wanted and possible: `plan.json` says `use`, or why it is `refused`.

    Only whether it is wanted counts, not why: latencies, which are among the reasons, are never twice the same.
    """
    from edgedistill.stages.files import load_data
    from edgedistill.storage import write_json

    splits = load_data(data)
    refused = _refusal(work, splits, distilled) if wanted else None
    use = wanted and refused is None
    write_json({"use": use, "refused": refused}, out / "plan.json")
    if use:
        work.events.note("a quantised file needs it: the student is trained on with its rounding")
        _train(work, splits, data, teacher, distilled, cache, out)


def _train(work: Work, splits: Data, data: Stage, teacher: Stage, distilled: Stage, cache: Stage, out: Path) -> None:
    from edgedistill.distillation.rounding.training import RoundedTraining, qat_settings, train_quantized
    from edgedistill.stages.models import ROUNDED, STUDENT, keep
    from edgedistill.stages.samples import calibration, judging_rows
    from edgedistill.stages.training import cached_answers, train, training

    job = RoundedTraining(
        replace(training(work, data, teacher.path, out), cache=cached_answers(cache)),
        distilled.path / f"{STUDENT}.safetensors",
        qat_settings(work.recipe),
        np.asarray(calibration(work, splits)),
        tuple(int(row) for row in judging_rows(work, splits)),
    )
    processes = work.recipe.distill.devices
    train(work, train_quantized, job, lambda module: keep(module, ROUNDED, splits, out), processes)


def _refusal(work: Work, splits: Data, distilled: Stage) -> Json | None:
    """Why the student cannot be trained so, as the error that says it."""
    import torch

    from edgedistill.distillation.rounding.graph import graph_of
    from edgedistill.errors import ModelError
    from edgedistill.stages.models import trained_student
    from edgedistill.stages.samples import calibration

    student = trained_student(work, splits, distilled)
    try:
        graph_of(student, torch.from_numpy(np.array(calibration(work, splits)[:2])))
    except ModelError as error:
        return error.told()
    return None
