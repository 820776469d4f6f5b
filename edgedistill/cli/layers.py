"""`edgedistill layers`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.cli.common import Answer, Overrides, command, console
from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.documents.answers import LayersDocument


@command
def layers(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A recipe (both its models), package.module:function, or a .pt2 file."),
    ],
    overrides: Overrides = None,
    shape: Annotated[
        str | None, typer.Option("--input", help="Shape of one sample where there is no recipe, such as 3,32,32.")
    ] = None,
) -> Answer:
    """Print a model's layers with their shapes: the names that an objective's terms listen to."""
    input_shape = _shape(shape) if shape is not None else None
    from edgedistill.cli.listing import list_layers  # imports torch

    found = [listing.to_json() for listing in list_layers(model, overrides or [], input_shape)]
    return Answer({"models": found}, lambda: _show(found))


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--input {text!r} is no shape", where="--input", expected="whole numbers such as 3,32,32", got=repr(text)
        ) from None


def _show(found: Sequence[LayersDocument]) -> None:
    from edgedistill.report.terminal import show_layers

    for listing in found:
        show_layers(listing, console())
