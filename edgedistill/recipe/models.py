"""Models as a recipe names them: students, and teachers of every kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from edgedistill.recipe.section import Section


class Normalize(Section):
    """Fixed normalisation, in the unit of the raw data: model input = (raw - mean) / std."""

    mean: list[float] = Field(min_length=1)
    """One value, or one per channel."""
    std: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """One value, or one per channel; positive."""

    @model_validator(mode="after")
    def _same_length(self) -> Normalize:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}; they must match")
        return self


class _Model(Section):
    checkpoint: str | None = None
    """Weights to load: .safetensors, or a state dict written by torch.save (read with weights_only)."""


class ConvnetModel(_Model):
    """The built-in convolutional family: `depth` 3x3 convolutions, the first `width` channels wide, each further one doubling them at half the resolution."""

    family: Literal["convnet"]
    """The built-in family."""
    width: int = Field(ge=1, le=1024)
    """Channels of the first convolution."""
    depth: int = Field(default=2, ge=1, le=8)
    """Number of convolutions."""


class ImportedModel(_Model):
    """Your own model: a function or class that returns a torch module giving logits of shape (batch, classes)."""

    model: str
    """`package.module:function`, looked up beside the recipe, then in the environment."""
    arguments: dict[str, object] = Field(default_factory=dict)
    """Keyword arguments for the function."""


def tag_of(given: object) -> str:
    """Which class a mapping means, by the key that only that class has."""
    keys = given if isinstance(given, dict) else vars(given) if isinstance(given, Section) else {}
    return f"<{next((key for key in ('ensemble', 'model', 'file') if key in keys), 'family')}>"


StudentModel = Annotated[
    Annotated[ConvnetModel, Tag("<family>")] | Annotated[ImportedModel, Tag("<model>")],
    Discriminator(lambda given: "<model>" if tag_of(given) == "<model>" else "<family>"),
]
