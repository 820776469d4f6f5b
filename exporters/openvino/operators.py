"""Operators of OpenVINO IR against the opsets of the OpenVINO that is installed."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from edgedistill.types import Inventory, Operator

from .._shared.replacements import replacement

if TYPE_CHECKING:
    from edgedistill.types import Artifact

_IR_VERSIONS = (10, 11)
_NO_OPERATORS = ("Parameter", "Result", "Const")
_SPELLED = {"ReLU": "Relu", "PReLU": "PRelu", "SoftMax": "Softmax"}  # in files -> in opsets


def refusals(artifact: Artifact) -> dict[str, str]:
    """Runtime -> why it must not be given this file; empty where nothing is known against it."""
    return inventory(artifact).refusals


def inventory(artifact: Artifact) -> Inventory:
    """Layers and versions of the .xml; the weights are not read.

    Raises:
        ValueError: the file is no OpenVINO IR.
        xml.etree.ElementTree.ParseError: it is no XML.
    """
    root = ET.fromstring(artifact.path.read_bytes())  # noqa: S314 - expat itself limits entities that blow up
    if root.tag != "net" or root.find("layers") is None:
        raise ValueError(f"{artifact.path.name} is not OpenVINO IR: its root is <{root.tag}>")
    places: dict[tuple[str, str], list[str]] = {}
    counts: dict[tuple[str, str], int] = {}
    for layer in root.iter("layer"):  # those of loops' bodies too
        key = (layer.get("version", ""), layer.get("type", ""))
        if key[1] in _NO_OPERATORS:
            continue
        counts[key] = counts.get(key, 0) + 1
        where = _where(layer.get("name", ""))
        if where not in places.setdefault(key, []):
            places[key].append(where)
    rows = tuple(_operator(*key, counts[key], tuple(found)) for key, found in places.items())
    ir = root.get("version", "")
    told = f"its IR version is {ir!r}, OpenVINO reads {' and '.join(map(str, _IR_VERSIONS))}"
    return Inventory({"ir_version": ir}, rows, {} if ir in map(str, _IR_VERSIONS) else {"openvino": told})


def _operator(opset: str, kind: str, count: int, modules: tuple[str, ...]) -> Operator:
    told = _refused(opset, kind)
    number = re.fullmatch(r"opset(\d+)", opset)
    instead = replacement(kind, custom=number is None) if told else ""
    return Operator(
        opset, kind, int(number[1]) if number else 0, count, modules, {"openvino": told} if told else {}, instead
    )


@cache
def _refused(opset: str, kind: str) -> str:
    """Why the installed OpenVINO cannot make such an operator; empty if it can."""
    from openvino.utils.node_factory import NodeFactory

    installed = f"OpenVINO {version('openvino').split('-')[0]}"
    if not re.fullmatch(r"opset\d+", opset):
        return ""  # operators of extensions: opening tells
    try:
        factory = NodeFactory(opset)
    except RuntimeError:
        return f"of {opset}, which {installed} does not have"
    try:
        factory.create(_SPELLED.get(kind, kind))
    except RuntimeError as error:
        return f"{installed} does not have it in {opset}" if "Couldn't create" in str(error) else ""
    return ""


def _where(name: str) -> str:
    """The module of the student in files that we wrote (`module/Type_number`), else the layer's name."""
    return name.partition("/")[0] or name
