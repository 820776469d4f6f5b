"""TFLite files as graphs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from .graph import Graph, Layer, fused, require_one_sample, unknown_layer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..._tflite import Convolution, Model, Operator, Tensor

_FREE = frozenset(
    {
        "RESHAPE",
        "SQUEEZE",
        "EXPAND_DIMS",
        "SHAPE",
        "QUANTIZE",
        "DEQUANTIZE",
        "CAST",
        "BROADCAST_TO",
        "RANGE",
    }
)
_ACTIVATIONS = {
    "RELU": "relu",
    "RELU6": "clip",
    "LEAKY_RELU": "leaky_relu",
    "LOGISTIC": "sigmoid",
    "HARD_SWISH": "hard_swish",
    "TANH": "tanh",
    "PRELU": "leaky_relu",
}
_MEMORY = frozenset(
    {
        "ADD",
        "SUB",
        "MUL",
        "DIV",
        "POW",
        "SQRT",
        "RSQRT",
        "EXP",
        "LOG",
        "NEG",
        "ABS",
        "MINIMUM",
        "MAXIMUM",
        "SQUARE",
        "SQUARED_DIFFERENCE",
        "SOFTMAX",
        "LOG_SOFTMAX",
        "MAX_POOL_2D",
        "AVERAGE_POOL_2D",
        "CONCATENATION",
        "SPLIT",
        "SPLIT_V",
        "SLICE",
        "STRIDED_SLICE",
        "GATHER",
        "GATHER_ND",
        "TRANSPOSE",
        "PAD",
        "PADV2",
        "MIRROR_PAD",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "DEPTH_TO_SPACE",
        "SPACE_TO_DEPTH",
        "MEAN",
        "SUM",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "REDUCE_PROD",
        "ARG_MAX",
        "ARG_MIN",
        "TOPK_V2",
        "GELU",
        "ELU",
        "PACK",
        "UNPACK",
        "TILE",
        "SELECT",
        "SELECT_V2",
        "GREATER",
        "LESS",
        "EQUAL",
        "LOCAL_RESPONSE_NORMALIZATION",
        "L2_NORMALIZATION",
        "CUMSUM",
        "SIN",
        "COS",
        "BATCH_TO_SPACE_ND",
        "SPACE_TO_BATCH_ND",
        "REVERSE_V2",
        "FLOOR",
        "GREATER_EQUAL",
        "LESS_EQUAL",
        "NOT_EQUAL",
    }
)
_ITEM_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 9: 1, 17: 0.5}
"""Of the schema's TensorType: float32, float16, int32, uint8, int64, bool, int16, int8, int4."""
_INTEGERS = (3, 9)
_PLAIN = ("CONV_2D", "DEPTHWISE_CONV_2D")
_TRANSPOSED = ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE")


def read(path: Path) -> Graph:
    """Read a file.

    Raises:
        UnfitError: an axis of an input has no size, or there is a batch of more.
        Exception: of the flatbuffers library, when this is no TFLite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray(path.read_bytes())
    if content[4:8] != b"TFL3":
        raise ValueError(f"{path.name} is no TFLite file: no TFL3 at byte 4")
    model = cast("Model", schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0)))
    graph = model.subgraphs[0]
    codes = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    names = [codes.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM") for code in model.operatorCodes]
    tensors = list(graph.tensors)
    for number in graph.inputs:
        require_one_sample(_text(tensors[number].name), _axes(tensors[number]))
    constant = [_is_constant(model, tensor) for tensor in tensors]
    unknown: dict[str, int] = {}
    layers = [_layer(names[op.opcodeIndex], op, tensors, constant, unknown) for op in graph.operators]
    activations = [number for number in range(len(tensors)) if not constant[number]]
    sizes = {f"{n}": math.prod(_shape(tensors[n])) for n in activations}
    outputs = tuple(str(n) for n in graph.outputs)
    stored = sum(
        int(_ITEM_BYTES.get(tensor.type, 4) * math.prod(_shape(tensor)))
        for number, tensor in enumerate(tensors)
        if constant[number]
    )
    integers = sum(tensors[n].type in _INTEGERS for n in activations)
    item = 1 if integers > len(activations) / 2 else 4
    inputs = tuple(str(n) for n in graph.inputs)
    return Graph(fused(layers, outputs), sizes, inputs, outputs, stored, item, unknown)


def _layer(name: str, op: Operator, tensors: Sequence[Tensor], constant: list[bool], unknown: dict[str, int]) -> Layer:
    given = tuple(str(n) for n in op.inputs if n >= 0 and not constant[n])
    weights = [_shape(tensors[n]) for n in op.inputs if n >= 0 and constant[n]]
    outputs = tuple(str(n) for n in op.outputs)
    title = f"{name.lower()}_{op.outputs[0]}"
    after = _shape(tensors[op.outputs[0]])
    kernel = next((w for w in weights if len(w) > 3), None)  # kernels have four axes, of volumes five
    if name in (*_PLAIN, *_TRANSPOSED, "CONV_3D") and kernel:
        before = _shape(tensors[op.inputs[2 if name in _TRANSPOSED else 0]])
        if name in _PLAIN:
            return _convolution(name, op, title, given, outputs, before, after, kernel)
        size = math.prod(kernel)
        macs = size * math.prod((before if name in _TRANSPOSED else after)[1:-1])
        return unknown_layer(name, title, given, outputs, unknown, macs=macs, weights=size)
    if name in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        matrix = next((w for w in weights if len(w) > 1), None)
        depth = (matrix or _shape(tensors[op.inputs[0]]))[-1]
        rows = math.prod(after[:-1]) if matrix else 2
        size = math.prod(matrix) if matrix else 0
        return Layer("dense" if rows == 1 else "matmul", title, given, outputs, math.prod(after) * depth, size)
    if name in _ACTIVATIONS:
        return Layer(_ACTIVATIONS[name], title, given, outputs)
    if name in _FREE or name in _MEMORY:
        return Layer("free" if name in _FREE or not given else "memory", title, given, outputs)
    elements = sum(map(math.prod, weights))
    return unknown_layer(name, title, given, outputs, unknown, macs=elements, weights=elements)


def _convolution(
    name: str,
    op: Operator,
    title: str,
    given: tuple[str, ...],
    outputs: tuple[str, ...],
    before: list[int],
    after: list[int],
    weight: list[int],
) -> Layer:
    """TFLite's layouts: data N, H, W, C; kernels O, H, W, I (depthwise 1, H, W, O)."""
    depthwise = name == "DEPTHWISE_CONV_2D"
    positions = math.prod(after[1:3])
    cin, settings = before[-1], cast("Convolution", op.builtinOptions)
    groups = cin if depthwise and cin > 1 else max(1, cin // weight[3]) if not depthwise else 1
    size = math.prod(weight)
    return Layer(
        "conv",
        title,
        given,
        outputs,
        size * positions,
        size,
        (weight[1], weight[2]),
        settings.strideH,
        groups,
        (cin, after[-1]),
        positions,
        max(settings.dilationHFactor, settings.dilationWFactor),
    )


def _axes(tensor: Tensor) -> list[int | None]:
    """Sizes of an input's axes; none: dynamic. All figures in the file are those of the batch that it was made with."""
    shape, signature = _shape(tensor), tensor.shapeSignature
    signature = shape if signature is None or len(signature) != len(shape) else signature
    return [shape[place] if place == 0 or told >= 0 else None for place, told in enumerate(signature)]


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _shape(tensor: Tensor) -> list[int]:
    return [max(1, int(axis)) for axis in tensor.shape] if tensor.shape is not None else []


def _is_constant(model: Model, tensor: Tensor) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0
