"""ONNX files as graphs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .graph import Graph, Layer, UnfitError, fused, require_one_sample, unknown_layer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onnx import AttributeProto, NodeProto, TensorShapeProto, ValueInfoProto

_ACTIVATIONS = {
    "Relu": "relu",
    "Clip": "clip",
    "LeakyRelu": "leaky_relu",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid",
    "HardSwish": "hard_swish",
    "Tanh": "tanh",
    "Mish": "mish",
    "BatchNormalization": "batch_norm",
    "PRelu": "leaky_relu",
}
_FREE = frozenset(
    {
        "Identity",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Dropout",
        "Constant",
        "Shape",
        "ConstantOfShape",
        "Cast",
        "QuantizeLinear",
        "DequantizeLinear",
        "Range",
        "Expand",
    }
)
_MEMORY = frozenset(
    {
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Sqrt",
        "Exp",
        "Log",
        "Neg",
        "Abs",
        "Erf",
        "Min",
        "Max",
        "Sum",
        "Mean",
        "Equal",
        "Greater",
        "Less",
        "Where",
        "Not",
        "And",
        "Or",
        "Floor",
        "Ceil",
        "Round",
        "Reciprocal",
        "Softplus",
        "Softsign",
        "Elu",
        "Selu",
        "Celu",
        "Gelu",
        "ThresholdedRelu",
        "Softmax",
        "LogSoftmax",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "LpPool",
        "Concat",
        "Split",
        "Slice",
        "Gather",
        "GatherElements",
        "GatherND",
        "Transpose",
        "Pad",
        "Resize",
        "Upsample",
        "DepthToSpace",
        "SpaceToDepth",
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "ReduceL2",
        "ReduceProd",
        "ArgMax",
        "ArgMin",
        "TopK",
        "LayerNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "RMSNormalization",
        "LpNormalization",
        "LRN",
        "Tile",
        "CumSum",
        "Swish",
        "Sin",
        "Cos",
        "NonMaxSuppression",
        "ScatterND",
        "ScatterElements",
        "GreaterOrEqual",
        "LessOrEqual",
        "Mod",
        "Trilu",
    }
)
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv"})
_PRODUCTS = frozenset({"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"})
_QUANTIZED = frozenset({"QuantizeLinear", "QLinearConv"})


def read(path: Path) -> Graph:
    """Read a file; a dynamic batch is 1.

    Raises:
        UnfitError: another axis of an input has no size, there is a batch of more, or an operator hides the shapes of
            what follows, or layers of its own.
        Exception: of the onnx library, when this is no whole ONNX file.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in weights:
            _require_shape(value)
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            axis.dim_value = _size(axis) or 1
    del model.graph.value_info[:]  # what an exporter noted there may name the axes that are 1 now
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = model.graph
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    constants |= {node.output[0]: _constant_shape(node) for node in graph.node if node.op_type == "Constant"}
    shapes = {
        value.name: [axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    for node in graph.node:  # weights that pass through a dequantisation or a reshape are weights still
        if node.op_type in ("DequantizeLinear", "Reshape", "Transpose", "Cast") and node.input[0] in constants:
            constants[node.output[0]] = shapes.get(node.output[0], constants[node.input[0]])
    reader = _Reader(constants, shapes)
    layers = [reader.layer(node) for node in graph.node if node.output[0] not in constants]
    outputs = tuple(value.name for value in graph.output)
    item = 1 if any(node.op_type in _QUANTIZED for node in graph.node) else 4
    stored = sum(_item_bytes(tensor.data_type) * math.prod(tensor.dims) for tensor in graph.initializer)
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if name not in constants}
    return Graph(fused(layers, outputs), sizes, inputs, outputs, stored, item, reader.unknown)


def _require_shape(value: ValueInfoProto) -> None:
    if not value.type.tensor_type.HasField("shape"):
        raise UnfitError(f"the input {value.name} has no shape: it decides the latency", "fix its shape when exporting")
    require_one_sample(value.name, [_size(axis) for axis in value.type.tensor_type.shape.dim])


def _size(axis: TensorShapeProto.Dimension) -> int | None:
    """Of an axis; none: dynamic (some exporters write 0 or -1 for it)."""
    return axis.dim_value if axis.dim_value > 0 else None


class _Reader:
    """Layers out of nodes; what no list knows is counted in `unknown`."""

    def __init__(self, constants: dict[str, list[int]], shapes: dict[str, list[int]]) -> None:
        self.constants = constants
        self.shapes = shapes
        self.unknown: dict[str, int] = {}

    def layer(self, node: NodeProto) -> Layer:
        given = tuple(name for name in node.input if name and name not in self.constants)
        weights = [self.constants[name] for name in node.input if name in self.constants]
        outputs = tuple(name for name in node.output if name)
        name = node.name or (outputs or (node.op_type,))[0]
        settings = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type in _CONVOLUTIONS:
            return self._convolution(node, name, given, outputs, settings)
        if node.op_type in _PRODUCTS:
            return self._product(node, name, given, outputs, weights)
        elements = sum(math.prod(shape) for shape in weights)
        if node.op_type in _ACTIVATIONS:
            return Layer(_ACTIVATIONS[node.op_type], name, given, outputs, weights=elements)
        if node.op_type in _FREE or node.op_type in _MEMORY:
            op = "free" if node.op_type in _FREE or not given else "memory"
            return Layer(op, name, given, outputs)
        if _hides_work(node):
            raise UnfitError(
                f"the operator {node.op_type} holds layers of its own: how often they run is not known before they do",
                "export the network without it, or measure it",
            )
        steps = (self.shapes.get(given[0]) or [1])[0] if given else 1
        return unknown_layer(node.op_type, name, given, outputs, self.unknown, macs=elements * steps, weights=elements)

    def _shape(self, name: str) -> list[int]:
        if name not in self.shapes:
            told = ", ".join(self.unknown) or "an operator before it"
            raise UnfitError(
                f"the shape of {name} is not known: onnx cannot see through {told}", "export the network without it"
            )
        return self.shapes[name]

    def _convolution(
        self,
        node: NodeProto,
        name: str,
        given: tuple[str, ...],
        outputs: tuple[str, ...],
        settings: Mapping[str, AttributeProto],
    ) -> Layer:
        weight_name = node.input[3] if node.op_type == "QLinearConv" else node.input[1]
        weight = self.constants.get(weight_name) or self._shape(weight_name)
        groups = settings["group"].i if "group" in settings else 1
        stride = settings["strides"].ints[0] if "strides" in settings else 1
        kernel = (weight[2], weight[3] if len(weight) > 3 else 1)  # 1-D kernels have three axes
        after, before = self._shape(outputs[0]), self._shape(node.input[0])
        transposed = node.op_type == "ConvTranspose"
        positions = math.prod((before if transposed else after)[2:])
        size = math.prod(weight)
        if transposed or len(weight) > 4:  # kernels of images have four axes
            kind = node.op_type if transposed else f"3-D {node.op_type}"
            return unknown_layer(kind, name, given, outputs, self.unknown, macs=size * positions, weights=size)
        channels = (weight[1] * groups, weight[0])
        dilation = max(settings["dilations"].ints) if "dilations" in settings else 1
        return Layer(
            "conv", name, given, outputs, size * positions, size, kernel, stride, groups, channels, positions, dilation
        )

    def _product(
        self, node: NodeProto, name: str, given: tuple[str, ...], outputs: tuple[str, ...], weights: list[list[int]]
    ) -> Layer:
        matrices = [shape for shape in weights if len(shape) > 1]
        after = self._shape(outputs[0])
        if matrices:
            size = math.prod(matrices[0])
            rows = max(1, math.prod(after) // max(1, _columns(node, matrices[0])))
            return Layer("dense" if rows == 1 else "matmul", name, given, outputs, size * rows, size)
        depth = (self._shape(given[0]) or [1])[-1] if given else 1
        return Layer("matmul", name, given, outputs, math.prod(after) * depth)


def _hides_work(node: NodeProto) -> bool:
    """Whether an operator's own graphs (the branches of If, the body of Loop) hold products or convolutions."""
    return any(
        inner.op_type in _CONVOLUTIONS | _PRODUCTS or _hides_work(inner)
        for attribute in node.attribute
        for inner in attribute.g.node
    )


def _columns(node: NodeProto, weight: list[int]) -> int:
    """Output features of a product with a constant matrix."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight[-2] if transposed else weight[-1]


def _constant_shape(node: NodeProto) -> list[int]:
    return next((list(attribute.t.dims) for attribute in node.attribute if attribute.name == "value"), [])


def _item_bytes(data_type: int) -> int:
    """Bytes of an element of ONNX's TensorProto data types that weights have."""
    sizes = {2: 1, 3: 1, 9: 1, 4: 2, 5: 2, 10: 2, 16: 2, 7: 8, 11: 8}
    return sizes.get(data_type, 4)
