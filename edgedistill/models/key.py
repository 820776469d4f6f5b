"""What a model depends on, told without importing torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.errors import ModelError
from edgedistill.recipe.document import ConvnetModel, EnsembleTeacher, FileTeacher, ImportedModel
from edgedistill.types import Json, file_sha256
from edgedistill.user_code import source_digest

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.recipe.teachers import Member

Model = ConvnetModel | ImportedModel


def model_key(spec: Model | Member | EnsembleTeacher, beside: Path) -> Json:
    """Its description, its code, its weights.

    Raises:
        ModelError: the checkpoint or file is missing.
    """
    if isinstance(spec, EnsembleTeacher):
        description = spec.model_dump(mode="json", exclude={"ensemble"})
        return {"model": description, "members": [model_key(member, beside) for member in spec.ensemble]}
    if isinstance(spec, FileTeacher):
        return {"model": spec.model_dump(mode="json"), "file": file_sha256(file_path(spec, beside))}
    key: Json = {"model": spec.model_dump(mode="json", exclude={"train", "checkpoint"})}
    if isinstance(spec, ImportedModel):
        key["code"] = source_digest(spec.model, beside)
    if spec.checkpoint is not None:
        key["checkpoint"] = file_sha256(checkpoint_path(spec, beside))
    return key


def checkpoint_path(spec: Model, beside: Path) -> Path:
    """The checkpoint's file.

    Raises:
        ModelError: there is none.
    """
    path = beside / str(spec.checkpoint)
    if not path.is_file():
        raise ModelError(
            f"there is no checkpoint at {path}",
            where=f"checkpoint: {path}",
            expected="a .safetensors file or a state dict (relative paths are taken from the recipe's folder)",
            got="nothing",
            fix="correct the path",
        )
    return path


def file_path(spec: FileTeacher, beside: Path) -> Path:
    """The file of a black-box teacher.

    Raises:
        ModelError: there is none.
    """
    path = beside / spec.file
    if not path.is_file():
        raise ModelError(
            f"there is no teacher at {path}",
            where=f"file: {path}",
            expected="an .onnx or .pt2 file (relative paths are taken from the recipe's folder)",
            got="nothing",
            fix="correct the path",
        )
    return path
