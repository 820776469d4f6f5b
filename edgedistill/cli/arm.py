"""`edgedistill arm`: install the ARM emulator, and say what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.cli.common import Answer, command, progress, say
from edgedistill.contracts import SetsUp
from edgedistill.plugins import first_that

if TYPE_CHECKING:
    from edgedistill.types import Json


def _emulator() -> SetsUp:
    """The plug-in that owns the installation; it serves every emulated core."""
    return first_that("devices", SetsUp)


@command
def setup(again: Annotated[bool, typer.Option("--again", help="Remove what is there first.")] = False) -> Answer:
    """Install the emulator under the user's cache folder, without root. The same command again goes on where it was."""
    with progress() as events:
        found = _emulator().setup(events, again=again)
    return Answer({"arm": found}, lambda: _show(found))


@command
def status() -> Answer:
    """Say what is installed: versions, sizes, the cores that are known. Exit code 3 when it is not ready."""
    found = _emulator().status()
    return Answer({"arm": found}, lambda: _show(found), 0 if found["installed"] else 3)


def _show(found: Json) -> None:
    if not found["installed"]:
        say(f"not installed ({found['path']}): {found['fix']}")
    else:
        _show_installation(found)
    for known in found["cores"].values():
        told = [one["id"] + (f" (as {one['runs_as']})" if one["runs_as"] not in one["id"] else "") for one in known]
        say(f"cores  {', '.join(told)}")


def _show_installation(found: Json) -> None:
    say(f"{found['emulator']}, installed {found['since']} in {found['path']}")
    for place, runtimes in found["runtimes"].items():
        say(f"{place:<6} {', '.join(f'{name} {version}' for name, version in runtimes.items())}")
    sizes = ", ".join(f"{part} {size / 1e6:.0f}" for part, size in found["bytes"].items())
    say(f"size   {sizes} MB; {found['kept_runs']} runs kept")
