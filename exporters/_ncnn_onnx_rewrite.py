"""Graphs of ONNX without what pnnx gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._ncnn_routes import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.types import Array

_PASSED_ON = ("Cast", "Identity")
_REDUCTIONS = ("ReduceSum", "ReduceMean")
_MATRIX = 2


def embeddings_apart(graph: Any, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Table]]:
    """Rows that ids choose from a constant become an input, for which pnnx has no layer when it reads ONNX.

    Returns:
        One sample of the inputs that the graph has then, in their order, and what the new ones stand for.
    """
    import onnx

    constants = {tensor.name: tensor for tensor in graph.initializer}
    given: dict[str, Array] = dict(inputs)
    tables: dict[str, Table] = {}
    for node in [node for node in graph.node if node.op_type == "Gather"]:
        ids, axis = _source(graph, node.input[1]), next((a.i for a in node.attribute if a.name == "axis"), 0)
        if node.input[0] not in constants or ids not in inputs or axis != 0:
            continue
        values = onnx.numpy_helper.to_array(constants[node.input[0]])
        if values.ndim != _MATRIX or values.dtype != "float32" or inputs[ids].ndim != _MATRIX:
            continue
        name, rows = f"rows_{len(tables)}", values[inputs[ids]]
        tables[name], given[name] = Table(ids, inputs[ids].shape[1:], values), rows
        graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, rows.shape))
        graph.node.remove(node)
    for value in _unused(graph):
        graph.input.remove(value)
        given.pop(value.name, None)
    return given, tables


def _source(graph: Any, name: str) -> str:
    """Where a tensor comes from, past what does not change its values."""
    makers = {output: node for node in graph.node for output in node.output}
    while name in makers and makers[name].op_type in _PASSED_ON:
        name = makers[name].input[0]
    return name


def floats_alone(graph: Any) -> None:
    """Inputs become floats, as they are in ncnn; what would make them so is left out: pnnx loses the batch."""
    import onnx

    ends = {value.name for value in graph.output}
    for value in graph.input:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for node in [node for node in graph.node if node.op_type == "Cast"]:
        to = next(a.i for a in node.attribute if a.name == "to")
        if to == onnx.TensorProto.FLOAT and node.output[0] not in ends:
            for taker in graph.node:
                taker.input[:] = [node.input[0] if name == node.output[0] else name for name in taker.input]
            graph.node.remove(node)


def two_axes(graph: Any) -> None:
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


def _unused(graph: Any) -> list[Any]:
    """Inputs that reach nothing any more, after the nodes between are removed."""
    while True:
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        dead = [node for node in graph.node if not used.intersection(node.output)]
        if not dead:
            constants = {tensor.name for tensor in graph.initializer}
            return [value for value in graph.input if value.name not in used | constants]
        for node in dead:
            graph.node.remove(node)
