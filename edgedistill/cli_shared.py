"""What all commands share: their options, how they speak, how they take files."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedistill.errors import ArtifactError, UsageError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Artifact

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


def artifact_of(path: Path) -> Artifact:
    """A file as an artifact, its format told by its ending."""
    from edgedistill.plugins import find_plugin, load_exporter, plugin_names
    from edgedistill.types import Artifact, Normalization, Precision, Signature

    endings = {find_plugin("exporters", name).SUFFIX: name for name in plugin_names("exporters")}
    if path.suffix not in endings or not path.is_file():
        raise UsageError(
            f"{path} is not an artifact",
            where=str(path),
            expected="an existing file; " + nearest(path.suffix, endings),
            got="nothing at this path" if path.suffix in endings else repr(path.suffix),
            fix="give a file of a known format",
        )
    fmt = endings[path.suffix]
    signature = Signature((), (), Normalization((0.0,), (1.0,)), ())
    companions = tuple(p for p in [path.with_suffix(".bin")] if path.suffix in (".xml", ".param") and p.is_file())
    artifact = Artifact.of_files(
        path, model=path.stem, fmt=fmt, precision=Precision.FP32, signature=signature, companions=companions
    )
    exporter = load_exporter(fmt)
    try:
        integer = exporter.count_macs(artifact).integer
    except Exception as error:  # each library has errors of its own for a file it cannot read
        raise ArtifactError(
            f"{path} cannot be read as {fmt}",
            where=str(path),
            expected=f"a valid {fmt} file",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            fix="export it again; the file may be damaged or of another format",
        ) from error
    precision = Precision.INT8_STATIC if integer else Precision.FP32
    return Artifact.of_files(
        path, model=path.stem, fmt=fmt, precision=precision, signature=signature, companions=companions
    )
