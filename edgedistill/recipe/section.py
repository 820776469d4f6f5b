"""What all sections of a recipe are: closed, frozen, and described by their fields' docstrings."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]


NotNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A part of the recipe: frozen, unknown keys refused, descriptions taken from docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
