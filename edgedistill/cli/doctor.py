"""What is installed, what is missing, and the command that mends it. Imports none of it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from edgedistill.types import Json

CORE = "core"


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
