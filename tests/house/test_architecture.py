"""The house rules that no linter knows."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgedistill.plugins import plugin_names

if TYPE_CHECKING:
    from edgedistill.contracts import Shelf

ROOT = Path(__file__).parents[2]
SHELVES: list[Shelf] = ["exporters", "devices", "benchmarks"]
ASIDE = {"studies"}
"""Stands on a shelf's folder, like a user of the product."""
SOURCES = [p for folder in ("edgedistill", *SHELVES) for p in (ROOT / folder).rglob("*.py")]


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("shelf", SHELVES)
def test_entry_points_are_exactly_the_files_and_folders_on_the_shelf(shelf: Shelf) -> None:
    places = [*(ROOT / shelf).glob("*.py"), *(p.parent for p in (ROOT / shelf).glob("*/__init__.py"))]
    assert plugin_names(shelf) == sorted(p.stem for p in places if p.stem not in ASIDE and p.stem[0] != "_")


@pytest.mark.parametrize("path", [*SOURCES, *(ROOT / "tests").rglob("*.py")], ids=lambda p: str(p.relative_to(ROOT)))
def test_nobody_imports_a_shelf_by_its_mapped_name(path: Path) -> None:
    shelves = tuple(f"edgedistill.{shelf}" for shelf in SHELVES)
    assert not [name for name in imported_names(path) if name.startswith(shelves)]


def test_every_package_is_listed_for_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {"edgedistill", *(f"edgedistill.{shelf}" for shelf in SHELVES)}
    for init in (ROOT / "edgedistill").rglob("__init__.py"):
        folders.add(".".join(init.parent.relative_to(ROOT).parts))
    for shelf in ("exporters", "devices"):
        folders |= {
            ".".join(("edgedistill", *p.parent.relative_to(ROOT).parts)) for p in (ROOT / shelf).rglob("__init__.py")
        }
    assert set(project["tool"]["setuptools"]["packages"]) == folders
    assert all((ROOT / shelf / "__init__.py").is_file() for shelf in SHELVES)


def test_every_exporter_has_an_extra_of_its_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(plugin_names("exporters")) <= set(project["project"]["optional-dependencies"])


def test_the_constraints_pin_every_requirement() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(r.name): r for line in lines if line and line[0] != "#" for r in [Requirement(line)]}
    for requirement in map(Requirement, wanted):
        if requirement.name != "edgedistill":
            (pin,) = pinned[canonicalize_name(requirement.name)].specifier
            assert pin.operator == "=="
            assert requirement.specifier.contains(pin.version), requirement
