"""What all sections of a recipe are: closed, frozen, and described by their fields' docstrings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from edgedistill.types import Json

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A part of the recipe: frozen, unknown keys refused, descriptions taken from docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)
WHOLE = "*"
"""Stands for every key."""


def part_of(section: S, keys: Sequence[str]) -> S:
    """A copy of a section that has these dotted keys alone: to read another is an AttributeError.

    Keys of another alternative of a union are passed over.
    """
    if WHOLE in keys:
        return section
    values = {name: _value(section, name, below) for name, below in _grouped(type(section).model_fields, keys).items()}
    made = type(section).model_construct(_fields_set=set(values), **values)
    for name in set(type(section).model_fields) - set(values):
        vars(made).pop(name, None)  # model_construct puts defaults there
    return made


def document_of(section: Section, keys: Sequence[str]) -> Json:
    """The same keys with their values, as JSON."""
    document = section.model_dump(mode="json")
    return document if WHOLE in keys else _picked(document, keys)


def _grouped(known: Collection[str], keys: Sequence[str]) -> dict[str, list[str]]:
    """First words that are known -> what follows them; an empty end stands for the whole value."""
    found: dict[str, list[str]] = {}
    for key in keys:
        first, _, rest = key.partition(".")
        if first in known:
            found.setdefault(first, []).append(rest or WHOLE)
    return found


def _value(section: Section, name: str, below: Sequence[str]) -> object:
    value = getattr(section, name)
    return part_of(value, below) if isinstance(value, Section) else value


def _picked(document: Json, keys: Sequence[str]) -> Json:
    found: Json = {}
    for name, below in _grouped(document, keys).items():
        value = document[name]
        found[name] = _picked(value, below) if isinstance(value, dict) and WHOLE not in below else value
    return found
