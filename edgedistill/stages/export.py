"""fp32, every format: the student, and the teacher beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from edgedistill.contracts import Shelf
    from edgedistill.data.splits import Data
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.types import Json

NAME = "export"
READS = ("export.formats", "export.fold")
SEES = ("teacher", "student", "seed")  # the keys of the models; weights are restored, whatever the seed
USES: tuple[Shelf, ...] = ("exporters",)


def check(work: Work) -> None:
    """An unknown format is told by `key`."""
    del work


def key(work: Work) -> Json:
    """The models, what writes them, and what the files say of where they come from."""
    from edgedistill.stages.keys import exporters_tools, model_keys, origin_key

    return {
        "models": model_keys(work, "teacher", "student"),
        "tools": exporters_tools(work),
        "origin": origin_key(work, quantized=False),
    }


def make(work: Work, data: Stage, teacher: Stage, distilled: Stage, *, out: Path) -> None:
    """Write, and open each file as its runtime would."""
    from edgedistill.conversion.operators import require_convertible
    from edgedistill.conversion.writing import write_fp32
    from edgedistill.models.reference import Reference
    from edgedistill.stages.files import load_data, write_artifacts
    from edgedistill.stages.keys import origin_of
    from edgedistill.stages.models import files_signature

    splits, formats = load_data(data), work.recipe.export.formats
    signature = files_signature(work, splits, distilled)
    models = _models(work, splits, teacher, distilled)
    for name, module in models.items():
        require_convertible(module, name, signature, formats)
    jobs = [(Reference(module, name, signature, {}, {}), fmt) for name, module in models.items() for fmt in formats]
    artifacts = []
    for number, (reference, fmt) in enumerate(jobs):
        work.events.step(f"export {reference.name} to {fmt}", number, len(jobs))
        artifacts.append(write_fp32(reference, fmt, out / fmt))
    write_artifacts(artifacts, out, origin_of(work))


def _models(work: Work, splits: Data, teacher: Stage, distilled: Stage) -> dict[str, nn.Module]:
    """By name, with what is folded into their graphs; a black box is no module that could be written."""
    from edgedistill.stages.models import STUDENT, trained_student, trained_teacher, with_surroundings
    from edgedistill.teachers.build import black_boxes

    taught_by = trained_teacher(work, splits, teacher)
    hidden = black_boxes(taught_by)
    if hidden:
        work.events.note(f"the teacher is not exported: {', '.join(hidden)} is a black box")
    models: dict[str, nn.Module] = {} if hidden else {"teacher": taught_by}
    models[STUDENT] = trained_student(work, splits, distilled)
    return {name: with_surroundings(work, module, splits.normalization) for name, module in models.items()}
