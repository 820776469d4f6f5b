"""THE door to the shelves: the verbs a plug-in must have, and how it is loaded.

A plug-in is a module named by an entry point in one of the groups `edgedistill.exporters`,
`edgedistill.devices`, `edgedistill.benchmarks`. Adding one is a file and an entry-point line. Plug-in
modules import their heavy libraries inside their functions, and list in REQUIRES what those are, so
that a missing extra is told at the door.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

from edgedistill.errors import PluginError, nearest

if TYPE_CHECKING:
    from edgedistill.contracts import Benchmark, Device, Exporter, Shelf
    from edgedistill.types import (
        DeviceInfo,
    )


VERBS: dict[Shelf, tuple[str, ...]] = {
    "exporters": (
        "REQUIRES",
        "TOOLS",
        "RUNTIMES",
        "PRECISIONS",
        "SUFFIX",
        "RUNNER",
        "export",
        "quantize",
        "schemes",
        "layers",
        "check_support",
        "count_macs",
    ),
    "devices": ("REQUIRES", "SCHEME", "describe", "run"),
    "benchmarks": ("REQUIRES", "measure"),
}


@cache
def _entries(shelf: Shelf) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"edgedistill.{shelf}")}


def plugin_names(shelf: Shelf) -> list[str]:
    """Names of the plug-ins on a shelf, sorted."""
    return sorted(_entries(shelf))


def missing_requirements(plugin: Any) -> list[str]:
    """Import names in REQUIRES that are not installed."""
    return [name for name in plugin.REQUIRES if importlib.util.find_spec(name) is None]


def find_plugin(shelf: Shelf, name: str) -> Any:
    """The plug-in's module, its contract checked but not its requirements.

    Raises:
        PluginError: no such plug-in, it cannot be imported, or it lacks a verb.
    """
    entry = _entries(shelf).get(name)
    if entry is None:
        raise PluginError(
            f"no plug-in named {name!r} on the shelf {shelf!r}",
            where=f"{shelf}: {name}",
            expected=nearest(name, _entries(shelf)),
            got=repr(name),
            fix="use a known name, or install the package that brings it (`edgedistill plugins` lists them)",
        )
    try:
        module = entry.load()
    except ImportError as error:
        raise PluginError(
            f"the plug-in {name!r} cannot be imported: {error}",
            where=entry.value,
            expected="a module that imports its heavy libraries inside its functions",
            got=str(error),
            fix=f"pip install 'edgedistill[{name}]'",
        ) from error
    lacking = [verb for verb in VERBS[shelf] if not hasattr(module, verb)]
    if lacking:
        raise PluginError(
            f"the plug-in {name!r} does not have what its shelf asks for",
            where=entry.value,
            expected=", ".join(VERBS[shelf]),
            got=f"missing: {', '.join(lacking)}",
            fix="add the missing names; edgedistill/plugins.py documents each",
        )
    return module


def load_plugin(shelf: Shelf, name: str) -> Any:
    """The plug-in's module, ready to work.

    Raises:
        PluginError: as `find_plugin`, or a library it needs is not installed.
    """
    module = find_plugin(shelf, name)
    missing = missing_requirements(module)
    if missing:
        raise PluginError(
            f"{name} needs {', '.join(missing)}, which this environment does not have",
            where=f"{shelf}: {name}",
            expected=f"the extra {name!r} installed",
            got=f"no module named {missing[0]!r}",
            fix=f"pip install 'edgedistill[{name}]'",
        )
    return module


def load_exporter(name: str) -> Exporter:
    """`load_plugin` for exporters, typed."""
    return cast("Exporter", load_plugin("exporters", name))


def load_benchmark(name: str) -> Benchmark:
    """`load_plugin` for benchmarks, typed."""
    return cast("Benchmark", load_plugin("benchmarks", name))


def list_devices(plugin: Any) -> list[DeviceInfo]:
    """The devices of a plug-in that users may name."""
    return list(plugin.devices()) if hasattr(plugin, "devices") else [plugin.describe(plugin.SCHEME)]


def source_of(device_id: str) -> str:
    """What a device's figures are: `measured`, `emulated` or `predicted`, as its plug-in's SOURCE says."""
    return str(getattr(load_device(device_id), "SOURCE", "measured"))


def device_runtimes(device_id: str) -> dict[str, str] | None:
    """Runtimes on a device and their versions; None where they are this machine's."""
    plugin: Any = load_device(device_id)
    return dict(plugin.runtimes(device_id)) if hasattr(plugin, "runtimes") else None


def load_device(device_id: str) -> Device:
    """The device plug-in that serves an id such as `cpu` or `ssh:NAME`.

    Raises:
        PluginError: no plug-in serves such ids.
    """
    schemes = {find_plugin("devices", name).SCHEME: name for name in plugin_names("devices")}
    scheme = device_id.split(":", 1)[0]
    if scheme not in schemes:
        raise PluginError(
            f"unknown device {device_id!r}",
            where=f"device: {device_id}",
            expected=nearest(scheme, schemes),
            got=repr(device_id),
            fix="use a known device (`edgedistill devices list`)",
        )
    return cast("Device", load_plugin("devices", schemes[scheme]))
