"""`edgedistill arm`: install the ARM emulator, and say what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.cli.common import AsJson, Debug, emit, say
from edgedistill.contracts import SetsUp
from edgedistill.plugins import first_that

if TYPE_CHECKING:
    from edgedistill.types import Json

app = typer.Typer(help="The ARM emulator: outputs and instruction counts on ARM cores.", no_args_is_help=True)


def _emulator() -> SetsUp:
    """The plug-in that owns the installation; it serves every emulated core."""
    return first_that("devices", SetsUp)


@app.command()
def setup(
    again: Annotated[bool, typer.Option("--again", help="Remove what is there first.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Install the emulator under the user's cache folder, without root. The same command again goes on where it was."""
    from edgedistill.cli.progress import TerminalEvents

    events = TerminalEvents()
    with events.bar:
        found = _emulator().setup(events, again=again)
    _tell(found, as_json=as_json)
    return 0


@app.command()
def status(
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Say what is installed: versions, sizes, the cores that are known. Exit code 3 when it is not ready."""
    found = _emulator().status()
    _tell(found, as_json=as_json)
    return 0 if found["installed"] else 3


def _tell(found: Json, *, as_json: bool) -> None:
    if as_json:
        emit({"arm": found})
        return
    if not found["installed"]:
        say(f"not installed ({found['path']}): {found['fix']}")
    else:
        say(f"{found['emulator']}, installed {found['since']} in {found['path']}")
        for place, runtimes in found["runtimes"].items():
            say(f"{place:<6} {', '.join(f'{name} {version}' for name, version in runtimes.items())}")
        sizes = ", ".join(f"{part} {size / 1e6:.0f}" for part, size in found["bytes"].items())
        say(f"size   {sizes} MB; {found['kept_runs']} runs kept")
    for known in found["cores"].values():
        told = [one["id"] + (f" (as {one['runs_as']})" if one["runs_as"] not in one["id"] else "") for one in known]
        say(f"cores  {', '.join(told)}")
