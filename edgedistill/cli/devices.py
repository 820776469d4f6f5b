"""`edgedistill devices`: list them, show one, get a board ready."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.cli.common import Answer, command, console, require_folder, say, write
from edgedistill.contracts import Installs
from edgedistill.errors import UsageError
from edgedistill.plugins import (
    find_devices,
    known_runtimes,
    list_devices,
    load_device,
    missing_requirements,
    offers,
    traits_of,
)
from edgedistill.types import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.documents.answers import DeviceDocument, SimulatedDevice
    from edgedistill.types import Json


@command
def devices_list() -> Answer:
    """List the devices: those here, the boards of devices.toml and the ssh config, the simulated with their error."""
    from edgedistill.prediction.predict import catalogue

    ready = [plugin for plugin in find_devices().values() if not missing_requirements(plugin)]
    real = [plugin for plugin in ready if plugin.TRAITS.source is not Source.PREDICTED]
    found = [one.to_json(plugin.TRAITS.source) for plugin in real for one in list_devices(plugin)]
    simulated = catalogue()
    return Answer({"devices": [*found, *simulated]}, lambda: _show_list(found, simulated))


def _show_list(found: Sequence[DeviceDocument], simulated: Sequence[SimulatedDevice]) -> None:
    from edgedistill.report.predictions import show_catalogue

    for one in found:
        size = f", {one['cores']} cores, {one['memory_bytes'] / 1e9:.1f} GB, {one['class']}" if one["cores"] else ""
        say(f"{one['id']:<8} {one['name']}{size}, {one['status']}")
    show_catalogue(simulated, console())


@command
def devices_show(
    device: Annotated[str, typer.Argument(metavar="ID", help="A device, as `devices list` names it.")],
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw a simulated device's anchors, predicted against published: an SVG."),
    ] = None,
) -> Answer:
    """Show one device."""
    from edgedistill.prediction.predict import is_predicted, profile_of

    if plot is not None:
        require_folder("--plot", plot)
    if not (is_predicted(device) and ":" in device):
        found = load_device(device).describe(device).to_json(traits_of(device).source)
        return Answer({"devices": [found]}, lambda: _show_facts(found))
    profile = profile_of(device)
    if plot is not None:
        from edgedistill.report.prediction_plot import anchors_picture

        write(plot, anchors_picture(profile))
    return Answer({"devices": [profile]}, lambda: _show_profile(profile))


def _show_facts(found: DeviceDocument) -> None:
    for key, value in found.items():
        say(f"{key:<13} {value}")


def _show_profile(found: Json) -> None:
    from edgedistill.report.predictions import show_profile

    show_profile(found, console())


@command
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
) -> Answer:
    """Install runtimes and numpy on a board, in a folder of their own there, and say which versions it has."""
    from edgedistill.cli.progress import TerminalEvents

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
    return Answer({"bootstrap": found}, lambda: _show_bootstrap(found))


def _show_bootstrap(found: Json) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    say(f"{found['id']}: Python {found['python']}, {versions}, in {found['venv']}")
