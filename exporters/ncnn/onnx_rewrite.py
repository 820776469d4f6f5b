"""Graphs of ONNX without what pnnx gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto

_REDUCTIONS = ("ReduceSum", "ReduceMean")
_DEFAULTS = {"Gather": ("axis", 0), "Cast": ("saturate", 1)}


def plain(graph: GraphProto) -> None:
    """Attributes that say what holds without them are left out: pnnx knows embeddings and casts without them alone."""
    for node in graph.node:
        name, value = _DEFAULTS.get(node.op_type, ("", 0))
        for attribute in [a for a in node.attribute if a.name == name and a.i == value]:
            node.attribute.remove(attribute)


def two_axes(graph: GraphProto) -> None:
    """What is reduced along one axis is reduced along one more, of size 1: pnnx forgets an axis that stands alone."""
    import onnx

    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for place, node in reversed(list(enumerate(graph.node))):
        axes = constants.get(node.input[1]) if node.op_type in _REDUCTIONS and len(node.input) > 1 else None
        if axes is None or axes.size != 1:
            continue
        keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        name, axis = node.output[0], int(axes[0])
        both = [axis if axis >= 0 else axis - 1, -1]
        graph.initializer.append(onnx.helper.make_tensor(f"{name}_axes", onnx.TensorProto.INT64, [2], both))
        graph.initializer.append(onnx.helper.make_tensor(f"{name}_last", onnx.TensorProto.INT64, [1], [-1]))
        wide = onnx.helper.make_node("Unsqueeze", [node.input[0], f"{name}_last"], [f"{name}_wide"])
        reduced = f"{name}_kept" if keep else name
        made = onnx.helper.make_node(node.op_type, [f"{name}_wide", f"{name}_axes"], [reduced], keepdims=keep)
        graph.node.remove(node)
        graph.node.insert(place, wide)
        graph.node.insert(place + 1, made)
        if keep:
            graph.node.insert(place + 2, onnx.helper.make_node("Squeeze", [reduced, f"{name}_last"], [name]))
