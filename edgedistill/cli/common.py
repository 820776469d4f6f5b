"""What all commands share: their options, how they speak, how they take files."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, all else on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key of the recipe: a.b=c, the value in YAML.")
]


class Stdout:
    """While a command runs with --json, descriptor 1 is stderr: nothing but the document reaches stdout."""

    target = 1

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def __enter__(self) -> None:
        if self.as_json:
            sys.stdout.flush()
            Stdout.target = os.dup(1)
            os.dup2(2, 1)

    def __exit__(self, *_: object) -> None:
        if self.as_json:
            sys.stdout.flush()
            os.dup2(Stdout.target, 1)
            os.close(Stdout.target)
            Stdout.target = 1


def emit(document: Any) -> None:
    """Print the one JSON document of a command."""
    with os.fdopen(os.dup(Stdout.target), "w", encoding="utf-8") as stream:
        stream.write(json.dumps(document, indent=1) + "\n")


def say(text: str) -> None:
    """A line for people, on stdout."""
    typer.echo(text)


def complain(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(text, err=True)


def console() -> Any:
    """Where tables are drawn."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 150)


def require_folder(option: str, path: Path) -> None:
    """Whether a file can be put where an option says.

    Raises:
        UsageError: its folder is missing.
    """
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"{option}: there is no folder {path.parent}",
            where=option,
            expected="a path in an existing folder",
            got=str(path),
            fix=f"mkdir -p {path.parent}",
        )
