"""Learned maps from a student's feature to the shape of the teacher's. They live only during training.

Shapes are without the batch axis. One axis is a vector (width), two are tokens (tokens, width), three are a map
(channels, height, width); channels are the width of a map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float

Kind = Literal["auto", "none", "linear", "conv1x1", "conv_bn"]
"""How the width is projected. "auto" learns nothing where the widths agree; "none" asks for equal shapes."""

Shape = tuple[int, ...]

_FORMS = {1: "vector", 2: "tokens", 3: "map"}

_KINDS: dict[tuple[str, str], tuple[Kind, ...]] = {
    ("vector", "vector"): ("linear",),
    ("tokens", "vector"): ("linear",),
    ("tokens", "tokens"): ("linear",),
    ("tokens", "map"): ("linear",),
    ("map", "vector"): ("linear",),
    ("map", "tokens"): ("linear",),
    ("map", "map"): ("conv1x1", "conv_bn"),
}
"""What can be joined, student first; "auto" takes the first kind."""


def projector(student: Shape, teacher: Shape, kind: Kind = "auto") -> nn.Module:
    """A module that takes (batch, *student) to (batch, *teacher), inferred from the two shapes alone.

    First the positions, without parameters: a map or tokens become a vector by their mean over all positions; a map
    becomes tokens row by row, and tokens a map likewise, where there are as many tokens as positions (a class token
    or another grid is never guessed); sizes that differ are resized (see `Resize`). Then the width: `linear`, a 1x1
    convolution, or one followed by batch norm. Equal shapes give `nn.Identity` for "auto" and "none".
    Initial weights are torch's own, drawn from its global generator.

    Raises:
        ModelError: no projector, or none of this kind, joins the shapes.
    """
    if kind in ("auto", "none") and student == teacher:
        return nn.Identity()
    forms = _form(student), _form(teacher)
    kinds = _KINDS.get(forms, ())
    chosen = kinds[0] if kind == "auto" and kinds else kind
    if chosen not in kinds or not _same_grid(student, teacher):
        raise _unjoinable(student, teacher, kind)
    steps = _positions(student, teacher)
    if kind != "auto" or _width(student) != _width(teacher):
        steps += _widths(_width(student), _width(teacher), chosen)
    if forms == ("tokens", "map"):
        steps.append(ToMap(teacher[1], teacher[2]))
    return nn.Sequential(*steps)


class Resize(nn.Module):
    """Resize one axis: adaptive average pooling if it shrinks, linear interpolation (half-pixel centres) if it grows.

    Both are linear, so the axis is multiplied by a constant (size, target) matrix. Two axes in turn give exactly
    adaptive average pooling and bilinear interpolation of maps, and gradients that are deterministic on every
    device, which those of torch's adaptive pooling on CUDA are not.

    Args:
        size: of the axis before.
        target: of the axis after.
        axis: counted from the end, so negative.
    """

    weights: Tensor

    def __init__(self, size: int, target: int, axis: int) -> None:
        super().__init__()
        units = torch.eye(size, dtype=torch.float64)[None]  # exact until it is stored
        if target < size:
            weights = functional.adaptive_avg_pool1d(units, target)
        else:
            weights = functional.interpolate(units, target, mode="linear")
        self.axis = axis
        self.register_buffer("weights", weights[0].float(), persistent=False)

    def forward(self, feature: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The feature with its axis resized."""
        return (feature.movedim(self.axis, -1) @ self.weights.to(feature.dtype)).movedim(-1, self.axis)


class Mean(nn.Module):
    """The mean over the axes of the positions: tokens, or height and width."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, feature: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch width"]:
        """(batch, width)."""
        return feature.mean(self.axes)


class ToTokens(nn.Module):
    """A map's positions, row by row, as tokens."""

    def forward(self, image: Float[Tensor, "batch width rows columns"]) -> Float[Tensor, "batch tokens width"]:
        """(batch, rows * columns, width)."""
        return image.flatten(2).transpose(1, 2)


class ToMap(nn.Module):
    """Tokens as the positions of a map, row by row."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.size = (rows, columns)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch width rows columns"]:
        """(batch, width, rows, columns)."""
        wide = tokens.transpose(1, 2)
        return wide.reshape(*wide.shape[:2], *self.size)


def _form(shape: Shape) -> str:
    return _FORMS.get(len(shape), f"{len(shape)} axes")


def _width(shape: Shape) -> int:
    return shape[0] if _form(shape) == "map" else shape[-1]


def _same_grid(student: Shape, teacher: Shape) -> bool:
    """Whether tokens and map, if it is one of each, have equally many positions."""
    match _form(student), _form(teacher):
        case ("tokens", "map"):
            return student[0] == teacher[1] * teacher[2]
        case ("map", "tokens"):
            return student[1] * student[2] == teacher[0]
        case _:
            return True


def _positions(student: Shape, teacher: Shape) -> list[nn.Module]:
    """The steps that give the student's feature the teacher's positions; (tokens, width) for a map from tokens."""
    match _form(student), _form(teacher):
        case ("map", "vector"):
            return [Mean((2, 3))]
        case ("tokens", "vector"):
            return [Mean((1,))]
        case ("map", "tokens"):
            return [ToTokens()]
        case ("map", "map"):
            return [Resize(student[a], teacher[a], a) for a in (-2, -1) if student[a] != teacher[a]]
        case ("tokens", "tokens") if student[0] != teacher[0]:
            return [Resize(student[0], teacher[0], -2)]
        case _:
            return []


def _widths(student: int, teacher: int, kind: Kind) -> list[nn.Module]:
    """The steps with parameters."""
    match kind:
        case "conv1x1":
            return [nn.Conv2d(student, teacher, 1)]
        case "conv_bn":
            return [nn.Conv2d(student, teacher, 1, bias=False), nn.BatchNorm2d(teacher)]
        case _:
            return [nn.Linear(student, teacher)]


def _unjoinable(student: Shape, teacher: Shape, kind: Kind) -> ModelError:
    forms = _form(student), _form(teacher)
    kinds = _KINDS.get(forms, ())
    if kinds and not _same_grid(student, teacher):
        expected = "as many tokens as the map has positions; a class token or another grid is not guessed"
    elif kinds:
        expected = f"kind {', '.join(map(repr, ('auto', *kinds)))} for {forms[0]} -> {forms[1]}"
    else:
        expected = "student -> teacher: " + ", ".join(f"{s} -> {t}" for s, t in _KINDS)
    return ModelError(
        f"no projector {kind!r} joins a student's feature of shape {student} to a teacher's of shape {teacher}",
        where=f"projector {kind!r}, shapes without the batch axis",
        expected=expected,
        got=f"{forms[0]} {student} -> {forms[1]} {teacher}",
        fix="name other layers (`edgedistill layers` prints their shapes), or another kind of projector",
    )
