"""`edgedistill doctor` and `plugins`: what is installed, what is missing, the command that mends it. Imports none of it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedistill.cli.common import Answer, command, say
from edgedistill.contracts import REQUIRED
from edgedistill.plugins import capabilities, find_plugin, missing_requirements, plugin_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from packaging.requirements import Requirement

    from edgedistill.contracts import Shelf
    from edgedistill.types import Json

CORE = "core"
_MARKS = {"ok": "ok     ", "missing": "missing", "wrong version": "WRONG  "}


@command
def doctor() -> Answer:
    """Say what is installed, what is missing, and the command that mends it. Exit code 2 if the core is broken."""
    findings = examine()
    document: Json = {"healthy": healthy(findings), "findings": [finding.to_json() for finding in findings]}
    return Answer(document, lambda: _show_findings(findings), 0 if document["healthy"] else 2)


def _show_findings(findings: Iterable[Finding]) -> None:
    for one in findings:
        say(f"{_MARKS[one.state]} {one.group:<9} {one.package:<20} {one.installed or '-':<14} wanted {one.wanted}")
    for fix in dict.fromkeys(one.fix for one in findings if one.fix):
        say(f"to mend: {fix}")


@command
def plugins() -> Answer:
    """List the plug-ins of each shelf, and what each lacks."""
    found: dict[str, list[Json]] = {shelf: [_plugin(shelf, name) for name in plugin_names(shelf)] for shelf in REQUIRED}
    return Answer({"plugins": found}, lambda: _show_plugins(found))


def _plugin(shelf: Shelf, name: str) -> Json:
    module = find_plugin(shelf, name)
    return {"name": name, "missing": missing_requirements(module), "offers": capabilities(shelf, module)}


def _show_plugins(found: Mapping[str, Iterable[Json]]) -> None:
    for shelf, rows in found.items():
        for row in rows:
            missing = ", ".join(row["missing"])
            lacks = f"missing {missing}: pip install 'edgedistill[{row['name']}]'" if missing else "ready"
            also = f"; offers {', '.join(row['offers'])}" if row["offers"] else ""
            say(f"{shelf:<11} {row['name']:<14} {lacks}{also}")


@dataclass(frozen=True)
class Finding:
    """One requirement and what this environment has for it."""

    group: str
    package: str
    wanted: str
    installed: str | None
    state: str
    fix: str

    def to_json(self) -> Json:
        """JSON form."""
        return dict(self.__dict__)


def examine() -> list[Finding]:
    """Every requirement of the core and of each extra."""
    from packaging.requirements import Requirement

    findings = []
    requirements = [Requirement(text) for text in importlib.metadata.requires("edgedistill") or []]
    extras = importlib.metadata.metadata("edgedistill").get_all("Provides-Extra") or []
    for group in (CORE, *extras):
        for requirement in requirements:
            marker = requirement.marker
            applies = marker is None if group == CORE else marker is not None and marker.evaluate({"extra": group})
            if applies and requirement.name != "edgedistill":
                findings.append(_find(requirement, group))
    return findings


def healthy(findings: list[Finding]) -> bool:
    """Whether the core is complete and nothing that is installed contradicts what needs it."""
    return all(f.state == "ok" or (f.state == "missing" and f.group != CORE) for f in findings)


def _find(requirement: Requirement, group: str) -> Finding:
    name, wanted = requirement.name, str(requirement.specifier) or "any"
    mend = "pip install edgedistill" if group == CORE else f"pip install 'edgedistill[{group}]'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(group, name, wanted, None, "missing", mend)
    if requirement.specifier.contains(version, prereleases=True):
        return Finding(group, name, wanted, version, "ok", "")
    if _belongs_to_absent_extra(name, group):
        return Finding(group, name, wanted, version, "missing", mend)
    return Finding(group, name, wanted, version, "wrong version", f"pip install '{name}{requirement.specifier}'")


def _belongs_to_absent_extra(name: str, group: str) -> bool:
    """numpy<2 is tflite-runtime's wish alone: without tflite-runtime, numpy 2 is no contradiction."""
    if not (group == "tflite" and name == "numpy"):
        return False
    try:
        importlib.metadata.version("tflite-runtime")
    except importlib.metadata.PackageNotFoundError:
        return True
    return False
