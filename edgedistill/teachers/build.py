"""Build the teacher that a recipe names: a module, a file, or an ensemble of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.errors import DataError, ModelError
from edgedistill.models.key import file_path
from edgedistill.recipe.document import EnsembleTeacher, FileTeacher
from edgedistill.students.build import check_output, construct
from edgedistill.teachers.ensemble import Ensemble
from edgedistill.teachers.file import OnnxModel, as_onnx
from edgedistill.teachers.module import Adapted, Affine

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from edgedistill.data.splits import Data
    from edgedistill.recipe.document import Normalize
    from edgedistill.recipe.teachers import Member
    from edgedistill.types import Normalization

Teacher = Adapted | Ensemble


def build_teacher(
    spec: Member | EnsembleTeacher, data: Data, beside: Path, seed: int, files: Path, *, restored: bool = False
) -> Teacher:
    """The teacher as one module that takes the student's inputs and gives logits, in eval mode.

    Args:
        spec: the recipe's description.
        data: the splits: shape, classes, the student's normalisation.
        beside: the recipe's folder.
        seed: for random initial weights.
        files: folder that keeps the ONNX files of black boxes.
        restored: checkpoints of the recipe are not read, because all weights will be loaded anyway.

    Raises:
        ModelError: it cannot be built, or does not give logits of (batch, classes).
    """
    if not isinstance(spec, EnsembleTeacher):
        return _member(spec, "teacher", data, beside, seed, files, restored=restored)
    members = {
        name: _member(member, name, data, beside, seed + number, files, restored=restored)
        for number, (name, member) in enumerate(zip(spec.names, spec.ensemble, strict=True))
    }
    return Ensemble(members, spec.combine, spec.weights, spec.features_from).eval()


def _member(spec: Member, name: str, data: Data, beside: Path, seed: int, files: Path, *, restored: bool) -> Adapted:
    if isinstance(spec, FileTeacher):
        onnx = files / f"{name}.onnx"
        module: nn.Module = OnnxModel(onnx if onnx.is_file() else as_onnx(file_path(spec, beside), onnx))
    else:
        spec_ = spec.model_copy(update={"checkpoint": None}) if restored else spec
        module = construct(spec_, data.sample_shape, data.classes, beside, seed)
    adapted = Adapted(
        module, _affine(spec.normalize, data.normalization, data.sample_shape[0]), spec.output, name
    ).eval()
    check_output(
        adapted, f"the teacher {name}" if name != "teacher" else "the teacher", data.sample_shape, data.classes
    )
    return adapted


def _affine(theirs: Normalize | None, ours: Normalization, channels: int) -> Affine | None:
    """The student's x = (raw - m) / s is wanted as (raw - m') / s' = x * s / s' + (m - m') / s'."""
    if theirs is None:
        return None
    if len(theirs.mean) not in (1, channels):
        raise DataError(
            "the teacher's normalisation does not fit the samples",
            where="teacher.normalize",
            expected=f"1 value or {channels}, one per channel",
            got=f"{len(theirs.mean)} values",
            fix="correct mean and std",
        )

    def wide(values: tuple[float, ...] | list[float]) -> list[float]:
        return list(values) * channels if len(values) == 1 else list(values)

    columns = zip(wide(ours.mean), wide(ours.std), wide(theirs.mean), wide(theirs.std), strict=True)
    pairs = [(s / std, (m - mean) / std) for m, s, mean, std in columns]
    return Affine(tuple(scale for scale, _ in pairs), tuple(shift for _, shift in pairs))


def black_boxes(teacher: Teacher) -> list[str]:
    """Names of the members that are files."""
    return [name or "teacher" for name, member in members(teacher).items() if isinstance(member.module, OnnxModel)]


def members(teacher: Teacher) -> dict[str | None, Adapted]:
    """The teacher's members by name; a single teacher has the name None."""
    if isinstance(teacher, Adapted):
        return {None: teacher}
    found: dict[str | None, Adapted] = {}
    for name, member in zip(teacher.names, teacher.members, strict=True):
        if not isinstance(member, Adapted):  # the constructor takes no others
            raise ModelError(f"the member {name} is no teacher", where=name)
        found[name] = member
    return found
