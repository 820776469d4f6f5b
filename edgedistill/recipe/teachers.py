"""Teachers as a recipe names them: a module, a file, or an ensemble of these."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from edgedistill.recipe.models import ConvnetModel, ImportedModel, Normalize, tag_of
from edgedistill.recipe.section import Section
from edgedistill.recipe.training import Train


class _Adapted(Section):
    normalize: Normalize | None = None
    """What the teacher was trained with, in the unit of the raw data, where it differs from `data.normalize`; converted."""
    output: str | int | None = None
    """Which part of what it returns are the logits: a dict's key or attribute, or a tuple's position. Needed where it returns no tensor."""
    name: str | None = Field(default=None, pattern=r"^\w[\w.-]*$")
    """What an ensemble's member is called in terms. Default: its position, from 0."""


class ConvnetTeacher(ConvnetModel, _Adapted):
    """A teacher of the built-in family."""

    train: Train | None = None
    """Train it on the labels first. Needed unless there is a checkpoint."""

    @model_validator(mode="after")
    def _has_weights(self) -> ConvnetTeacher:
        if (self.train is None) == (self.checkpoint is None):
            raise ValueError("a convnet teacher needs exactly one of `checkpoint` and `train`")
        return self


class ImportedTeacher(ImportedModel, _Adapted):
    """A teacher of yours. Without `checkpoint` and `train` it is taken as your function returns it."""

    train: Train | None = None
    """Train it on the labels first (from the checkpoint, if there is one)."""


class FileTeacher(_Adapted):
    """A teacher in a file, a black box: only its outputs can be learned from."""

    file: str = Field(pattern=r"\.(onnx|pt2)$")
    """An .onnx file, or a .pt2 written by torch.export.save; relative to the recipe. onnxruntime runs it."""


Member = Annotated[
    Annotated[ConvnetTeacher, Tag("<family>")]
    | Annotated[ImportedTeacher, Tag("<model>")]
    | Annotated[FileTeacher, Tag("<file>")],
    Discriminator(lambda given: "<family>" if (tag := tag_of(given)) == "<ensemble>" else tag),
]


class EnsembleTeacher(Section):
    """Several teachers that answer together; terms of the objective may name one of them."""

    ensemble: list[Member] = Field(min_length=2)
    """The members."""
    combine: Literal["mean_logits", "mean_probabilities", "confidence"] = "mean_logits"
    """`confidence`: probabilities averaged with a weight per sample, exp(-entropy) of each member's own."""
    weights: list[Annotated[float, Field(ge=0)]] | None = None
    """One per member. Default: equal."""
    features_from: str | None = None
    """The member whose layers are meant where a term does not name one."""

    @property
    def names(self) -> list[str]:
        """What the members are called."""
        return [member.name or str(number) for number, member in enumerate(self.ensemble)]

    @model_validator(mode="after")
    def _consistent(self) -> EnsembleTeacher:
        if self.weights is not None and (len(self.weights) != len(self.ensemble) or sum(self.weights) == 0):
            raise ValueError(f"weights must be {len(self.ensemble)} numbers, one per member, and not all zero")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"members need different names, got {self.names}")
        if self.features_from is not None and self.features_from not in self.names:
            raise ValueError(f"features_from must be one of {self.names}, got {self.features_from!r}")
        return self


Teacher = Annotated[
    Annotated[ConvnetTeacher, Tag("<family>")]
    | Annotated[ImportedTeacher, Tag("<model>")]
    | Annotated[FileTeacher, Tag("<file>")]
    | Annotated[EnsembleTeacher, Tag("<ensemble>")],
    Discriminator(tag_of),
]
