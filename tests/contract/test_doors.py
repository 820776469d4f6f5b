"""The door: a plug-in keeps its shelf's contract and has each capability whole, or is refused in words."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edgedistill.agent import load_opener
from edgedistill.contracts import CAPABILITIES, REQUIRED, Shelf
from edgedistill.errors import PluginError
from edgedistill.plugins import capabilities, find_plugin, offers, plugin_names, plugins_that, require_contract
from edgedistill.types import Source, Traits

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY = [(shelf, name) for shelf in REQUIRED for name in plugin_names(shelf)]
TOY = Path(__file__).parents[1] / "helpers" / "toy_runtime.py"
VALUES = {"TRAITS": Traits(Source.MEASURED), "OPENER": TOY, "RUNTIMES": load_opener(str(TOY)).RUNTIMES}
"""Of what the door looks into."""
CONTRACTS = [(shelf, one) for shelf in REQUIRED for one in (REQUIRED[shelf], *CAPABILITIES[shelf])]


def names(contract: type) -> list[str]:
    verbs = [name for name, member in vars(contract).items() if inspect.isfunction(member) and name[0] != "_"]
    return [*inspect.get_annotations(contract), *verbs]


def verb(contract: type, name: str) -> Callable[..., Any]:
    """A function with exactly the parameters that the Protocol states."""
    told = [p for p in inspect.signature(getattr(contract, name)).parameters.values() if p.name != "self"]

    def made() -> None: ...

    made.__signature__ = inspect.Signature(told)  # type: ignore[attr-defined]  # how inspect lets it be stated
    return made


def made(shelf: Shelf, *also: type) -> SimpleNamespace:
    """A plug-in with exactly what its shelf asks for, and these capabilities."""
    plugin = SimpleNamespace(__file__="toy.py")
    for contract in (REQUIRED[shelf], *also):
        for name in names(contract):
            known = name in inspect.get_annotations(contract)
            setattr(plugin, name, VALUES.get(name, ()) if known else verb(contract, name))
    return plugin


@pytest.mark.parametrize(("shelf", "name"), EVERY)
def test_every_plugin_keeps_its_contract(shelf: Shelf, name: str) -> None:
    require_contract(shelf, name, find_plugin(shelf, name))


@pytest.mark.parametrize(("shelf", "name"), EVERY)
def test_optional_verbs_are_had_by_capabilities_alone(shelf: Shelf, name: str) -> None:
    """What a face exports is required, or belongs to a capability that it has: nothing is known by its name alone."""
    plugin = find_plugin(shelf, name)
    told = {n for one in CAPABILITIES[shelf] if offers(plugin, one) is not None for n in names(one)}
    extra = set(getattr(plugin, "__all__", [])) - told - set(names(REQUIRED[shelf]))
    assert extra == set()


@pytest.mark.parametrize("shelf", REQUIRED)
def test_the_least_plugin_is_taken_and_offers_nothing(shelf: Shelf) -> None:
    plugin = made(shelf)
    require_contract(shelf, "toy", plugin)
    assert capabilities(shelf, plugin) == []


@pytest.mark.parametrize(("shelf", "contract"), CONTRACTS, ids=lambda one: getattr(one, "__name__", one))
def test_whatever_one_name_is_missing_it_is_told(shelf: Shelf, contract: type) -> None:
    for name in names(contract):
        plugin = made(shelf, contract)
        delattr(plugin, name)
        if contract is not REQUIRED[shelf] and not set(names(contract)) - {name}:
            require_contract(shelf, "toy", plugin)  # a capability of one verb is then not had at all
            continue
        with pytest.raises(PluginError, match=rf"contract {contract.__name__}: missing: {name}") as caught:
            require_contract(shelf, "toy", plugin)
        assert caught.value.where == "toy.py"


@pytest.mark.parametrize(("shelf", "contract"), CONTRACTS, ids=lambda one: getattr(one, "__name__", one))
def test_a_verb_with_other_parameters_is_told_with_both(shelf: Shelf, contract: type) -> None:
    for name in set(names(contract)) - set(inspect.get_annotations(contract)):
        plugin = made(shelf, contract)
        setattr(plugin, name, lambda another: another)
        with pytest.raises(PluginError, match=rf"{name}\(another\) is called as "):
            require_contract(shelf, "toy", plugin)
        setattr(plugin, name, "no function")
        with pytest.raises(PluginError, match=f"{name} is not callable"):
            require_contract(shelf, "toy", plugin)


def test_more_parameters_are_fine_where_they_have_defaults() -> None:
    plugin = made("devices")
    plugin.run = lambda device_id, job, more=1: (device_id, job, more)
    require_contract("devices", "toy", plugin)
    plugin.run = lambda job, device_id: (device_id, job)
    with pytest.raises(PluginError, match="is called as"):
        require_contract("devices", "toy", plugin)


@pytest.mark.parametrize("traits", ["measured", {"source": "measured"}, None])
def test_a_device_must_say_what_its_figures_are(traits: object) -> None:
    """Nothing is taken for measured that does not say so."""
    plugin = made("devices")
    plugin.TRAITS = traits
    with pytest.raises(PluginError, match=r"TRAITS is a \w+, not edgedistill\.types\.Traits"):
        require_contract("devices", "toy", plugin)
    with pytest.raises(TypeError, match="source"):
        Traits()  # type: ignore[call-arg]  # what is shown


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, r"OPENER cannot be loaded: FileNotFoundError"),
        ("import nothing_of_this_name", r"OPENER cannot be loaded: ModuleNotFoundError"),
        ("RUNTIMES = {}", r"OPENER: missing: open"),
        ("RUNTIMES = {}\ndef open(path): ...", r"OPENER: open\(path\) is called as \(agent: "),
        ("RUNTIMES = {}\ndef open(agent, runtime, path, threads, given): ...", r"RUNTIMES are not those of its OPENER"),
    ],
)
def test_a_runtime_file_that_the_agent_could_not_use_is_told(tmp_path: Path, text: str | None, told: str) -> None:
    plugin = made("exporters")
    plugin.OPENER = tmp_path / "runtime.py"
    if text is not None:
        plugin.OPENER.write_text(text, encoding="utf-8")
    with pytest.raises(PluginError, match=told):
        require_contract("exporters", "toy", plugin)


def test_capabilities_find_plugins_without_their_names() -> None:
    for shelf in REQUIRED:
        for capability in CAPABILITIES[shelf]:
            found: dict[str, Any] = plugins_that(shelf, capability)
            assert found, f"nobody offers {capability.__name__}"
            assert all(offers(plugin, capability) is plugin for plugin in found.values())
