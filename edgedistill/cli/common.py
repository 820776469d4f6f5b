"""What all commands share: what a command is, their options, how they speak, how they write files."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rich.console import Console

    from edgedistill.cli.progress import TerminalEvents


Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key of the recipe: a.b=c, the value in YAML.")
]
_OPTIONS = {
    "as_json": Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, all else on stderr.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
}


@dataclass(frozen=True)
class Answer:
    """What a command came to.

    Attributes:
        document: the one JSON document of --json.
        show: draws the same for people; called without --json alone.
        exit_code: of the process.
    """

    document: Mapping[str, object]
    show: Callable[[], None]
    exit_code: int = 0


def command(run: Callable[..., Answer]) -> Callable[..., int]:
    """A command of a function's own parameters, with --json and --debug after them; it returns the exit code.

    --debug is heeded in `main`: an error may come before the command does.
    """

    @wraps(run)
    def answered(*, as_json: bool, debug: bool, **own: object) -> int:
        del debug
        answer = run(**own)
        if as_json:
            emit(answer.document)
        else:
            answer.show()
        return answer.exit_code

    whole = signature(run, eval_str=True)
    shared = [Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=one) for name, one in _OPTIONS.items()]
    whole = whole.replace(parameters=[*whole.parameters.values(), *shared])
    vars(answered)["__signature__"] = whole  # where typer looks first
    return answered


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


def emit(document: Mapping[str, object]) -> None:
    """Print the one JSON document of a command."""
    with os.fdopen(os.dup(Stdout.target), "w", encoding="utf-8") as stream:
        stream.write(json.dumps(document, indent=1) + "\n")


def say(text: str) -> None:
    """A line for people, on stdout."""
    typer.echo(text)


def complain(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(text, err=True)


def console() -> Console:
    """Where tables are drawn."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 150)


@contextmanager
def progress() -> Iterator[TerminalEvents]:
    """Events on stderr, and a bar there, while a command works."""
    from edgedistill.cli.progress import TerminalEvents

    events = TerminalEvents()
    with events.bar:
        yield events


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


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, in a new folder if need be.

    Raises:
        StorageError: the disk is full, or its folder cannot be written.
    """
    from edgedistill.storage import storage_errors, write_atomically

    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
