"""OpenVINO IR files as graphs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .graph import Graph, Layer, UnfitError, fused, require_one_sample, unknown_layer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from openvino import Node, Output

_FREE = frozenset(
    {
        "Constant",
        "Parameter",
        "Result",
        "Convert",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "ShapeOf",
        "FakeQuantize",
        "Broadcast",
        "Range",
    }
)
_ACTIVATIONS = {
    "Relu": "relu",
    "Clamp": "clip",
    "PRelu": "leaky_relu",
    "Sigmoid": "sigmoid",
    "HSigmoid": "hard_sigmoid",
    "HSwish": "hard_swish",
    "Tanh": "tanh",
    "Mish": "mish",
    "BatchNormInference": "batch_norm",
}
_MEMORY = frozenset(
    {
        "Add",
        "Subtract",
        "Multiply",
        "Divide",
        "Power",
        "Sqrt",
        "Exp",
        "Log",
        "Negative",
        "Abs",
        "Erf",
        "Minimum",
        "Maximum",
        "Equal",
        "Greater",
        "Less",
        "Select",
        "SquaredDifference",
        "Softmax",
        "LogSoftmax",
        "MaxPool",
        "AvgPool",
        "AdaptiveAvgPool",
        "Concat",
        "Split",
        "VariadicSplit",
        "StridedSlice",
        "Slice",
        "Gather",
        "GatherElements",
        "Transpose",
        "Pad",
        "Interpolate",
        "DepthToSpace",
        "SpaceToDepth",
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "ReduceL2",
        "TopK",
        "MVN",
        "NormalizeL2",
        "LRN",
        "Tile",
        "Gelu",
        "Swish",
        "Elu",
        "ShuffleChannels",
        "SoftPlus",
        "GroupNormalization",
        "Sin",
        "Cos",
        "CumSum",
        "GatherND",
        "ScatterNDUpdate",
        "Floor",
    }
)
_CONVOLUTIONS = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
)


def read(path: Path) -> Graph:
    """Read a file; a dynamic batch is 1.

    Raises:
        UnfitError: another axis of an input has no size, or there is a batch of more.
        Exception: of the openvino library, when this is no whole IR.
    """
    import openvino

    model = openvino.Core().read_model(str(path))
    for port in model.inputs:
        shape = port.partial_shape
        if shape.rank.is_dynamic:
            raise UnfitError(
                f"the input {_title(port)} has no shape: it decides the latency", "fix its shape when exporting"
            )
        require_one_sample(_title(port), [None if axis.is_dynamic else axis.get_length() for axis in shape])
    model.reshape({port: [1 if axis.is_dynamic else axis for axis in port.partial_shape] for port in model.inputs})
    ops = list(model.get_ordered_ops())
    constants = _constants(ops)
    unknown: dict[str, int] = {}
    layers = [_layer(op, constants, unknown) for op in ops if op.get_friendly_name() not in constants]
    sizes = {
        _name(port): math.prod(port.shape)
        for op in ops
        if op.get_friendly_name() not in constants
        for port in op.outputs()
        if port.partial_shape.is_static
    }
    outputs = tuple(_name(port.get_node().input_value(0)) for port in model.outputs)
    stored = sum(op.data.nbytes for op in ops if op.get_type_name() == "Constant")
    item = 1 if any(op.get_type_name() == "FakeQuantize" for op in ops) else 4
    inputs = tuple(_name(port) for port in model.inputs)
    return Graph(fused(layers, outputs), sizes, inputs, outputs, stored, item, unknown)


def _constants(ops: Sequence[Node]) -> set[str]:
    """Names of operators that depend on no input."""
    found: set[str] = set()
    for op in ops:
        sources = [value.get_node().get_friendly_name() for value in op.input_values()]
        if op.get_type_name() == "Constant" or (sources and all(source in found for source in sources)):
            found.add(op.get_friendly_name())
    return found


def _name(port: Output) -> str:
    return f"{port.get_node().get_friendly_name()}:{port.get_index()}"


def _title(port: Output) -> str:
    return str(port.get_node().get_friendly_name())


def _layer(op: Node, constants: set[str], unknown: dict[str, int]) -> Layer:
    kind, title = op.get_type_name(), op.get_friendly_name()
    values = list(op.input_values())
    given = tuple(_name(v) for v in values if v.get_node().get_friendly_name() not in constants)
    weights = [list(v.shape) for v in values if v.get_node().get_friendly_name() in constants]
    outputs = tuple(_name(port) for port in op.outputs())
    if kind in _CONVOLUTIONS:
        return _convolution(op, title, given, outputs, unknown)
    if kind == "MatMul":
        after, matrix = list(op.output(0).shape), next(iter(weights), None)
        size = math.prod(matrix) if matrix else 0
        depth = list(values[0].shape)[-1]
        rows = math.prod(after[:-1]) if matrix else 2
        return Layer("dense" if rows == 1 else "matmul", title, given, outputs, math.prod(after) * depth, size)
    if kind == "Add" and len(given) == 1 and len(values) == 2:  # a bias stands apart in an IR
        return Layer("bias", title, given, outputs)
    if kind in _ACTIVATIONS:
        return Layer(_ACTIVATIONS[kind], title, given, outputs)
    if kind in _FREE or kind in _MEMORY:
        return Layer("free" if kind in _FREE or not given else "memory", title, given, outputs)
    elements = sum(map(math.prod, weights))
    return unknown_layer(kind, title, given, outputs, unknown, macs=elements, weights=elements)


def _convolution(
    op: Node, title: str, given: tuple[str, ...], outputs: tuple[str, ...], unknown: dict[str, int]
) -> Layer:
    """OpenVINO's kernels: O, I, H, W, with the groups before them where there are groups."""
    kind, settings = op.get_type_name(), op.get_attributes()
    weight = list(op.input_value(1).shape)
    groups = weight.pop(0) if kind.startswith("Group") else 1
    before, after = list(op.input_value(0).shape), list(op.output(0).shape)
    transposed = "Backprop" in kind
    positions = math.prod((before if transposed else after)[2:])
    size = math.prod(weight) * groups
    if transposed or len(weight) > 4:  # kernels of images have four axes
        kind = kind if transposed else f"3-D {kind}"
        return unknown_layer(kind, title, given, outputs, unknown, macs=size * positions, weights=size)
    kernel = (weight[2], weight[3] if len(weight) > 3 else 1)  # 1-D kernels have three axes
    return Layer(
        "conv",
        title,
        given,
        outputs,
        size * positions,
        size,
        kernel,
        settings["strides"][0],
        groups,
        (before[1], after[1]),
        positions,
        max(settings["dilations"]),
    )
