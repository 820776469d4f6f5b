"""`edgedistill devices bootstrap`: get a board ready."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedistill.cli.common import AsJson, Debug, emit, say
from edgedistill.cli.progress import TerminalEvents
from edgedistill.contracts import Installs
from edgedistill.errors import UsageError
from edgedistill.plugins import known_runtimes, load_device, offers


def bootstrap(
    device: Annotated[str, typer.Argument(metavar="ID", help="A board, such as ssh:pi4.")],
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            help="What to install: onnxruntime, litert, ... or with a version, onnxruntime==1.16.3. Default: the board's `runtimes` in devices.toml; this machine's version.",
        ),
    ] = None,
    wheels: Annotated[
        Path | None, typer.Option("--wheels", help="Folder of wheels, for a board that reaches no package index.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Install runtimes and numpy on a board, in a folder of their own there, and say which versions it has."""
    plugin = offers(load_device(device), Installs)
    if plugin is None:
        raise UsageError(
            f"nothing can be installed on {device}",
            where="command line",
            expected="a board that runs Python: ssh:NAME",
            got=repr(device),
            fix="name such a board",
        )
    found = plugin.bootstrap(device, runtime or [], wheels, known_runtimes(), TerminalEvents())
    if as_json:
        emit({"bootstrap": found})
    else:
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        say(f"{found['id']}: Python {found['python']}, {versions}, in {found['venv']}")
    return 0
