"""THE door to the shelves: what stands there, whether it keeps its contract, and what it offers besides.

A plug-in is a module (a file, or a folder's face) named by an entry point in one of the groups `edgedistill.exporters`,
`edgedistill.devices`, `edgedistill.benchmarks`. Adding one is a file or folder and an entry-point line; contracts.py
says what must be in it. Plug-ins import their heavy libraries inside their functions, and list in REQUIRES what those
are, so that a missing extra is told at the door.
"""

from __future__ import annotations

import importlib.util
import inspect
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar, cast

from edgedistill.contracts import CAPABILITIES, REQUIRED, Device, Exporter, HasRuntimes, Lists, Opener
from edgedistill.errors import PluginError, nearest
from edgedistill.types import Runtime, Traits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from edgedistill.contracts import Benchmark, Shelf
    from edgedistill.types import DeviceInfo

C = TypeVar("C")


@cache
def _entries(shelf: Shelf) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"edgedistill.{shelf}")}


def plugin_names(shelf: Shelf) -> list[str]:
    """Names of the plug-ins on a shelf, sorted."""
    return sorted(_entries(shelf))


def installed(module: str) -> bool:
    """Whether a module, or for `a.b` the package `a`, can be imported here; nothing is."""
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def missing_requirements(plugin: Any) -> list[str]:
    """Import names in REQUIRES that are not installed."""
    return [name for name in plugin.REQUIRES if not installed(name)]


def find_plugin(shelf: Shelf, name: str) -> Any:
    """The plug-in's module, its contract checked but not its requirements.

    Raises:
        PluginError: no such plug-in, it cannot be imported, lacks a name, has one with other parameters, or has a
            capability by half.
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
    return _checked(shelf, entry)


@cache
def _checked(shelf: Shelf, entry: EntryPoint) -> ModuleType:
    try:
        module: ModuleType = entry.load()
    except ImportError as error:
        raise PluginError(
            f"the plug-in {entry.name!r} cannot be imported: {error}",
            where=entry.value,
            expected="a module that imports its heavy libraries inside its functions",
            got=str(error),
            fix=f"pip install 'edgedistill[{entry.name}]'",
        ) from error
    require_contract(shelf, entry.name, module)
    return module


def require_contract(shelf: Shelf, name: str, plugin: Any) -> None:
    """Whether a plug-in has what its shelf asks for, and each capability whole or not at all.

    Raises:
        PluginError: to the plug-in's author: which names are missing, or take other parameters than those of a call.
    """
    wanted = REQUIRED[shelf]
    faults = _faults(plugin, wanted)
    faults = faults or _further_faults(shelf, plugin)
    for capability in CAPABILITIES[shelf]:
        if not faults and any(hasattr(plugin, verb) for verb in _names(capability)):
            wanted, faults = capability, _faults(plugin, capability)
    if faults:
        raise PluginError(
            f"the plug-in {name!r} does not keep the contract {wanted.__name__}: {'; '.join(faults)}",
            where=getattr(plugin, "__file__", None) or repr(plugin),
            expected=", ".join(_names(wanted)),
            got="; ".join(faults),
            fix=f"mend these names; {wanted.__module__}.{wanted.__name__} says what each is called with",
        )


def offers(plugin: Any, capability: type[C]) -> C | None:
    """The plug-in as one that has a capability; None if it has not. The door saw to it that none is had by half."""
    return cast("C", plugin) if all(hasattr(plugin, verb) for verb in _names(capability)) else None


def capabilities(shelf: Shelf, plugin: Any) -> list[str]:
    """Names of the capabilities that a plug-in has."""
    return [one.__name__ for one in CAPABILITIES[shelf] if offers(plugin, one) is not None]


def plugins_that(shelf: Shelf, capability: type[C]) -> dict[str, C]:
    """The plug-ins of a shelf that have a capability, by name."""
    every = {name: offers(find_plugin(shelf, name), capability) for name in plugin_names(shelf)}
    return {name: plugin for name, plugin in every.items() if plugin is not None}


def first_that(shelf: Shelf, capability: type[C]) -> C:
    """The first plug-in by name that has a capability.

    Raises:
        PluginError: none has it.
    """
    every = plugins_that(shelf, capability)
    if not every:
        raise PluginError(
            f"no plug-in among the {shelf} has {capability.__name__}",
            where=shelf,
            expected=f"one with {', '.join(_names(capability))}",
            got=", ".join(plugin_names(shelf)) or "none at all",
            fix="install EdgeDistill again, or the package that brings such a plug-in",
        )
    return next(iter(every.values()))


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


def find_exporters() -> dict[str, Exporter]:
    """Every exporter by name, ready or not."""
    return {name: cast("Exporter", find_plugin("exporters", name)) for name in plugin_names("exporters")}


def load_benchmark(name: str) -> Benchmark:
    """`load_plugin` for benchmarks, typed."""
    return cast("Benchmark", load_plugin("benchmarks", name))


def find_devices() -> dict[str, Device]:
    """Every device plug-in by name, ready or not."""
    return {name: cast("Device", find_plugin("devices", name)) for name in plugin_names("devices")}


def plugin_of(device_id: str) -> str:
    """Name of the device plug-in that serves an id such as `cpu` or `ssh:NAME`.

    Raises:
        PluginError: no plug-in serves such ids.
    """
    schemes = {plugin.SCHEME: name for name, plugin in find_devices().items()}
    scheme = device_id.split(":", 1)[0]
    if scheme not in schemes:
        raise PluginError(
            f"unknown device {device_id!r}",
            where=f"device: {device_id}",
            expected=nearest(scheme, schemes),
            got=repr(device_id),
            fix="use a known device (`edgedistill devices list`)",
        )
    return schemes[scheme]


def load_device(device_id: str) -> Device:
    """The device plug-in that serves an id, ready to work; raises as `plugin_of` and `load_plugin`."""
    return cast("Device", load_plugin("devices", plugin_of(device_id)))


def traits_of(device_id: str) -> Traits:
    """What a device's figures are, and what it can do."""
    return load_device(device_id).TRAITS


def list_devices(plugin: Device) -> list[DeviceInfo]:
    """The devices of a plug-in that users may name."""
    several = offers(plugin, Lists)
    return [plugin.describe(plugin.SCHEME)] if several is None else list(several.devices())


def device_runtimes(device_id: str) -> dict[str, str] | None:
    """Runtimes on a device and their versions; None where they are this machine's."""
    own = offers(load_device(device_id), HasRuntimes)
    return None if own is None else dict(own.runtimes(device_id, known_runtimes()))


def known_runtimes() -> dict[str, Runtime]:
    """Every runtime that an exporter brings, by name."""
    return {
        name: Runtime(module, distribution, exporter.OPENER)
        for exporter in find_exporters().values()
        for name, (module, distribution) in exporter.RUNTIMES.items()
    }


def _names(contract: type) -> tuple[str, ...]:
    """The attributes and verbs that a Protocol names."""
    return (*inspect.get_annotations(contract), *(verb for verb, _ in _verbs(contract)))


def _verbs(contract: type) -> Iterator[tuple[str, inspect.Signature]]:
    for name, member in vars(contract).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            yield name, inspect.signature(member)


def _faults(plugin: Any, contract: type) -> list[str]:
    missing = [name for name in _names(contract) if not hasattr(plugin, name)]
    faults = [f"missing: {', '.join(missing)}"] if missing else []
    for verb, wanted in _verbs(contract):
        if verb not in missing:
            told = _mismatch(getattr(plugin, verb), wanted)
            faults += [f"{verb}{told}"] if told else []
    return faults


def _further_faults(shelf: Shelf, plugin: Any) -> list[str]:
    """What names and parameters do not tell."""
    if shelf == "devices" and not isinstance(plugin.TRAITS, Traits):
        return [f"TRAITS is a {type(plugin.TRAITS).__name__}, not edgedistill.types.Traits"]
    return _opener_faults(plugin) if shelf == "exporters" else []


def _opener_faults(exporter: Exporter) -> list[str]:
    """Of its runtime file, which is loaded for it; runtimes are imported inside its functions."""
    from edgedistill.agent import load_opener

    try:
        opener = load_opener(str(exporter.OPENER))
    except Exception as error:  # noqa: BLE001 - whatever a foreign file does when it is loaded
        return [f"OPENER cannot be loaded: {type(error).__name__}: {error}"]
    faults = [f"OPENER: {fault}" for fault in _faults(opener, Opener)]
    return faults or ([] if opener.RUNTIMES == exporter.RUNTIMES else ["RUNTIMES are not those of its OPENER"])


def _mismatch(given: Any, wanted: inspect.Signature) -> str:
    """How a verb's parameters differ from those that it is called with; empty if every call fits.

    By position the contract's names must come in the contract's order; more parameters must have defaults.
    """
    if not callable(given):
        return " is not callable"
    try:
        found = inspect.signature(given)
    except (TypeError, ValueError):  # a builtin without one
        return ""
    declared = [p for name, p in wanted.parameters.items() if name != "self"]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found.parameters.values()):
        return ""
    by_position = [p.name for p in declared if p.kind is not p.KEYWORD_ONLY]
    own = [p for p in found.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    lacking = [p.name for p in declared if p.name not in found.parameters]
    known = {p.name for p in declared}
    extra = [p.name for p in found.parameters.values() if p.name not in known and p.default is p.empty]
    out_of_order = [p.name for p in own][: len(by_position)] != by_position
    if lacking or extra or out_of_order:
        return f"{found} is called as {wanted.replace(parameters=declared, return_annotation=wanted.empty)}"
    return ""
