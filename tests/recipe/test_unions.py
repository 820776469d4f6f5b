"""Errors in unions that no recipe has yet: what chooses a branch is read from the types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Discriminator, Field, Tag, ValidationError

from edgedistill.recipe.reading import explain
from edgedistill.recipe.section import Section


class Circle(Section):
    form: Literal["circle"]
    radius: float


class Square(Section):
    form: Literal["square"]
    side: float


class Paint(Section):
    colour: str


class Paper(Section):
    pattern: str


class Fixed(Section):
    height: float = Field(gt=0)


def _cover(given: Any) -> str:
    return "paper" if "pattern" in given else "paint"


class Drawing(Section):
    shapes: list[Annotated[Circle | Square, Field(discriminator="form")]]
    cover: Annotated[Annotated[Paint, Tag("paint")] | Annotated[Paper, Tag("paper")], Discriminator(_cover)]
    place: Literal["top", "bottom"] | Fixed = "top"


GOOD = {"shapes": [{"form": "circle", "radius": 1.0}], "cover": {"colour": "red"}}


@pytest.mark.parametrize(
    ("changes", "where", "message", "expected"),
    [
        (
            {"shapes": [{"form": "square", "sid": 1}]},
            "shapes.0.sid",
            "unknown key",
            "did you mean 'side'? known: form, ",
        ),
        ({"shapes": [{"form": "sqare"}]}, "shapes.0.form", "unknown form", "did you mean 'square'? known: circle, "),
        ({"shapes": [{}]}, "shapes.0.form", "field required", "known: circle, square"),
        ({"cover": {"pattern": "dots", "colour": 1}}, "cover.colour", "unknown key", "known: pattern"),
        ({"cover": {"color": "red"}}, "cover.color", "unknown key", "did you mean 'colour'? known: colour"),
        ({"place": {"height": 0}}, "place.height", "greater than 0", ""),
        ({"place": {"hight": 1}}, "place.hight", "unknown key", "did you mean 'height'?"),
        ({"place": "tpo"}, "place", "'top' or 'bottom'", ""),
        ({"place": 3}, "place", "'top' or 'bottom'", ""),
    ],
)
def test_a_new_union_needs_no_word_in_the_reading(
    changes: dict[str, object], where: str, message: str, expected: str
) -> None:
    document = {**GOOD, **changes}
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate(document)
    told = explain(caught.value, Drawing, document, Path("drawing.yaml"), {})
    assert told.where == f"drawing.yaml, key {where}"
    assert message in told.message
    assert expected in told.expected
