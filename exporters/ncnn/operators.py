"""Layers of an ncnn file against the ncnn that is installed."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from edgedistill.types import Inventory, Operator

from .._shared.replacements import replacement
from .runtime import layers_of, library

if TYPE_CHECKING:
    from edgedistill.types import Artifact


def refusals(artifact: Artifact) -> dict[str, str]:
    """Runtime -> why it must not be given this file; empty where nothing is known against it."""
    return inventory(artifact).refusals


def inventory(artifact: Artifact) -> Inventory:
    """Layers of the .param file; ncnn gives them no versions, and the file tells no modules.

    Raises:
        ValueError: the file is no ncnn .param file.
    """
    ncnn = library()
    layers_of(str(artifact.path))  # is it whole?
    places: dict[str, list[str]] = {}
    lines = artifact.path.read_text(encoding="ascii").splitlines()
    count = int(lines[1].split()[0])
    if len(lines) - 2 != count or not all(len(line.split()) > 1 for line in lines[2:]):
        raise ValueError(f"{artifact.path.name} tells of {count} layers and holds {len(lines) - 2}: it is cut off")
    for line in lines[2:]:
        kind, name = line.split()[:2]
        places.setdefault(kind, []).append(name)
    rows = []
    for kind, names in places.items():
        if kind == "Input":
            continue
        foreign = ncnn.layer_to_index(kind) < 0
        told = {"ncnn": f"ncnn {version('ncnn')} has no such layer"} if foreign else {}
        rows.append(Operator("ncnn", kind, 0, len(names), tuple(names), told, replacement(kind) if foreign else ""))
    return Inventory({"magic": "7767517"}, tuple(rows))
