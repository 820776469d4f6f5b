"""Files with one layer spoilt on purpose: tests ask whether it is found."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from exporters.tflite.flatbuffer import packed, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgedistill.types import Array

    Spoil = Callable[[Array], Array]

ONNX_LAYERS = ("Conv", "Gemm", "MatMul")
TFLITE_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
OPENVINO_LAYERS = ("Convolution", "GroupConvolution", "MatMul")
NCNN_LAYERS = ("Convolution", "ConvolutionDepthWise", "InnerProduct")


def noisy(weights: Array) -> Array:
    """A quarter of the weights' spread added: what a wrong rounding does."""
    noise = np.random.default_rng(0).standard_normal(weights.shape)
    found: Array = (weights + 0.25 * weights.std() * noise).astype(weights.dtype)
    return found


def swapped(weights: Array) -> Array:
    """The first two along the first axis that is longer than 1 change places."""
    axis = next(i for i, size in enumerate(weights.shape) if size > 1)
    order = [1, 0, *range(2, weights.shape[axis])]
    found: Array = np.take(weights, order, axis)
    return found


def onnx_weights(source: Path, target: Path, number: int, spoil: Spoil) -> str:
    """Spoil the weights of the n-th layer; the name of its tensor."""
    import onnx

    model = onnx.load(str(source))
    node = [node for node in model.graph.node if node.op_type in ONNX_LAYERS][number]
    _onnx(model, node.input[1], spoil, target)
    return str(node.output[0])


def onnx_tensor(source: Path, target: Path, pattern: str, number: int, spoil: Spoil) -> str:
    """Spoil the n-th initialiser (sorted by name) of such a name; its name."""
    import onnx

    model = onnx.load(str(source))
    name = sorted(t.name for t in model.graph.initializer if re.fullmatch(pattern, t.name))[number]
    _onnx(model, name, spoil, target)
    return str(name)


def _onnx(model: Any, name: str, spoil: Spoil, target: Path) -> None:
    from onnx import numpy_helper

    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(spoil(numpy_helper.to_array(tensor)), name))
    target.write_bytes(model.SerializeToString())


def tflite_weights(source: Path, target: Path, number: int, spoil: Spoil) -> str:
    """Spoil the weights of the n-th layer; the name of its tensor."""
    model, operator = _tflite_layer(source, number)
    graph = model.subgraphs[0]
    tensor = graph.tensors[operator.inputs[1]]
    dtype = np.float32 if not tensor.type else np.int8
    buffer = model.buffers[tensor.buffer]
    shape = [d for d in tensor.shape if d > 1]
    weights = np.asarray(buffer.data, np.uint8).view(dtype).reshape(shape)
    buffer.data = np.frombuffer(spoil(weights).tobytes(), np.uint8)
    target.write_bytes(packed(model))
    return _name(graph.tensors[operator.outputs[0]])


def tflite_scale(source: Path, target: Path, number: int, *, zero_point: bool = False) -> str:
    """Spoil the scale of the n-th layer's weights, or the zero point of what it gives; the name of its tensor."""
    model, operator = _tflite_layer(source, number)
    graph = model.subgraphs[0]
    output = graph.tensors[operator.outputs[0]]
    if zero_point:
        output.quantization.zeroPoint = np.full_like(output.quantization.zeroPoint, 100)
    else:
        told = graph.tensors[operator.inputs[1]].quantization
        told.scale = np.asarray(told.scale, np.float32) * np.float32(4)
    target.write_bytes(packed(model))
    return _name(output)


def _tflite_layer(source: Path, number: int) -> tuple[Any, Any]:
    from ai_edge_litert import schema_py_generated as schema

    model = read(source)
    codes = {getattr(schema.BuiltinOperator, name) for name in TFLITE_LAYERS}
    graph = model.subgraphs[0]
    return model, [op for op in graph.operators if model.operatorCodes[op.opcodeIndex].builtinCode in codes][number]


def _name(tensor: Any) -> str:
    return tensor.name.decode() if isinstance(tensor.name, bytes) else str(tensor.name)


def openvino_weights(source: Path, target: Path, number: int, spoil: Spoil) -> str:
    """Spoil the weights (in an 8-bit file, their scales) of the n-th layer; the name of its tensor."""
    import openvino

    model = openvino.Core().read_model(source)
    node = [op for op in model.get_ordered_ops() if op.get_type_name() in OPENVINO_LAYERS][number]
    constant = node.input_value(1).get_node()
    reader = node.input(1)
    while constant.get_type_name() != "Constant":
        reader = next(iter(constant.inputs()[-1:]))
        constant = reader.get_source_output().get_node()
    reader.replace_source_output(openvino.opset13.constant(spoil(constant.data)).output(0))
    openvino.save_model(model, target, compress_to_fp16=False)
    return str(node.get_friendly_name())


def ncnn_weights(source: Path, target: Path, number: int, spoil: Spoil) -> str:
    """Spoil the weights of the n-th layer; the name of its blob."""
    content = bytearray(source.with_suffix(".bin").read_bytes())
    layers = [line.split() for line in source.read_text(encoding="ascii").splitlines()[2:]]
    weighted = [words for words in layers if words[0] in NCNN_LAYERS]
    at = start = count = 0
    settings: dict[str, str] = {}
    for words in weighted[: number + 1]:
        settings = dict(word.split("=") for word in words if "=" in word)
        size_key, bias_key = ("2", "1") if words[0] == "InnerProduct" else ("6", "5")
        start, count = at + 4, int(settings[size_key])  # after a flag of the storage type
        at = start + 4 * count + (4 * int(settings["0"]) if settings.get(bias_key) == "1" else 0)
    weights = np.frombuffer(content, np.float32, count, start).reshape(int(settings["0"]), -1)
    content[start : start + 4 * count] = spoil(weights).astype(np.float32).tobytes()
    shutil.copyfile(source, target)
    target.with_suffix(".bin").write_bytes(content)
    return str(weighted[number][4 + int(weighted[number][2])])
