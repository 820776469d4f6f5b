"""Which module of the student a node of an ONNX graph comes from."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import GraphProto, NodeProto


MODULE = "module"
"""Key of a node's metadata that names the student's module it comes from."""


def keep_modules(graph: GraphProto) -> None:
    """Of all that torch.onnx says about a node, keep the module: the rest holds paths of this machine."""
    for node in graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
        path = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]  # the last is the node itself
        del node.metadata_props[:]
        module = path[-1].removeprefix("module.") if path and path[-1] != "module" else ""
        if module:
            node.metadata_props.add(key=MODULE, value=module)


def name_after_modules(path: Path) -> None:
    """Put the module before each node's name, `encoder.layers.0/node_MatMul_7`: OpenVINO keeps names alone."""
    import onnx

    model = onnx.load(str(path))
    for node in model.graph.node:
        if module_of(node):
            node.name = f"{module_of(node)}/{node.name}"
    path.write_bytes(model.SerializeToString(deterministic=True))


def module_of(node: NodeProto) -> str:
    """The module a node comes from, in files that we wrote; else empty."""
    return next((str(entry.value) for entry in node.metadata_props if entry.key == MODULE), "")
