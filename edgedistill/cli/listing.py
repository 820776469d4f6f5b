"""The layers of the models that a recipe, an import path or a program names: what terms can listen to."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from edgedistill.data.sources import load_source
from edgedistill.data.splits import prepare
from edgedistill.errors import ModelError, UsageError
from edgedistill.models.layers import Layer, layers
from edgedistill.recipe.document import load_recipe
from edgedistill.students.build import construct
from edgedistill.teachers.build import build_teacher, members
from edgedistill.teachers.file import OnnxModel, load_program
from edgedistill.user_code import call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.documents.answers import LayersDocument


@dataclass(frozen=True)
class Listing:
    """A model's title and its layers; `note` says why there are none."""

    model: str
    layers: tuple[Layer, ...]
    note: str = ""

    def to_json(self) -> LayersDocument:
        """JSON form of `edgedistill layers`; shapes are without the batch."""
        return {
            "model": self.model,
            "note": self.note,
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "input_shape": shape_without_batch(layer.input_shape),
                    "output_shape": shape_without_batch(layer.output_shape),
                    "parameters": layer.parameters,
                    "calls": layer.calls,
                }
                for layer in self.layers
            ],
        }


def shape_without_batch(shape: tuple[int, ...] | None) -> list[int] | None:
    """A feature's shape of one sample."""
    return list(shape[1:]) if shape is not None else None


def list_layers(target: str, overrides: Sequence[str], input_shape: tuple[int, ...] | None) -> list[Listing]:
    """The layers of both models of a recipe, of `package.module:function`, or of a .pt2 program.

    Args:
        target: the recipe's path, an import path, or the program's path.
        overrides: `--set` of a recipe.
        input_shape: of one sample; needed where there is no recipe.

    Raises:
        EdgeDistillError: the target cannot be read or built, or the shape is missing.
    """
    if target.endswith((".yaml", ".yml")):
        return _of_recipe(Path(target), overrides)
    if input_shape is None:
        raise UsageError(
            "the shape of a sample is needed",
            where=target,
            expected="--input with the shape of one sample, such as 3,32,32",
            got="nothing",
            fix="add --input, or name a recipe, which has data",
        )
    if target.endswith((".pt2", ".onnx")):
        return [_of_file(Path(target), input_shape)]
    module = call(target, {}, Path())
    if not isinstance(module, torch.nn.Module):
        raise ModelError(
            f"{target} did not return a torch module",
            where=target,
            expected="a torch.nn.Module",
            got=type(module).__name__,
            fix="name a function that returns the module",
        )
    return [Listing(target, tuple(layers(module, torch.zeros(2, *input_shape))))]


def _of_recipe(path: Path, overrides: Sequence[str]) -> list[Listing]:
    recipe, beside = load_recipe(path, overrides), path.parent
    source = recipe.data
    data = prepare(load_source(source, beside), source.normalize, source.evaluation_fraction, recipe.seed)
    example = torch.zeros(2, *data.sample_shape)
    student = construct(recipe.student, data.sample_shape, data.classes, beside, recipe.seed)
    with tempfile.TemporaryDirectory() as files:
        teacher = build_teacher(recipe.teacher, data, beside, recipe.seed, Path(files), restored=True)
        found = [Listing("student", tuple(layers(student, example)))]
        for name, member in members(teacher).items():
            title = f"teacher {name}" if name is not None else "teacher"
            if isinstance(member.module, OnnxModel):
                found.append(Listing(title, (), "a black box: it gives its outputs alone"))
            else:
                found.append(Listing(title, tuple(layers(member.module, member.convert(example)))))
    return found


def _of_file(path: Path, input_shape: tuple[int, ...]) -> Listing:
    if not path.is_file():
        raise ModelError(f"there is no file at {path}", where=str(path), expected="a .pt2 file", fix="correct the path")
    if path.suffix == ".onnx":
        return Listing(path.name, (), "a black box: it gives its outputs alone")
    module = load_program(path).module()
    return Listing(path.name, tuple(layers(module, torch.zeros(2, *input_shape))))
