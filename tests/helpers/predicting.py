"""What the tests of predictions share: modules of the shelf, and small files."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedistill.plugins import find_plugin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def module(name: str) -> Any:
    """A module of the devices' shelf, as the plug-in sees it."""
    return importlib.import_module(f".{name}", find_plugin("devices", "simulated").__package__)


def save(path: Path, nodes: list[Any], weights: Mapping[str, tuple[int, ...]], shape: tuple[Any, ...]) -> Path:
    """An ONNX file with the input `x` of that shape and the output `y`; weights are random."""
    rng = np.random.default_rng(0)
    tensors = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


WINDOWS = ("plain", "dilated", "transposed", "volume")
"""Convolutions of 16 channels with kernels of 3 in every axis, over 8 positions in every axis."""


def window(folder: Path, ending: str, kind: str, shape: tuple[Any, ...] | None = None) -> Path:
    """A file with one convolution of WINDOWS and an addition; in NHWC for TFLite. `shape`: of the input."""
    axes = 3 if kind == "volume" else 2
    path = folder / f"{kind}{ending}"
    shape = shape or ((1, *[8] * axes, 16) if ending == ".tflite" else (1, 16, *[8] * axes))
    _WRITERS[ending](path, kind, axes, shape)
    return path


def _window_onnx(path: Path, kind: str, axes: int, shape: tuple[Any, ...]) -> None:
    settings: dict[str, Any] = {"dilations": [2, 2]} if kind == "dilated" else {}
    name = "ConvTranspose" if kind == "transposed" else "Conv"
    nodes = [helper.make_node(name, ["x", "w"], ["a"], **settings), helper.make_node("Add", ["a", "a"], ["y"])]
    save(path, nodes, {"w": (16, 16, *[3] * axes)}, shape)


def _window_openvino(path: Path, kind: str, axes: int, shape: tuple[Any, ...]) -> None:
    import openvino
    from openvino import opset8 as ops

    x = ops.parameter([axis if isinstance(axis, int) else -1 for axis in shape], name="x")
    weights = ops.constant(np.ones((16, 16, *[3] * axes), np.float32))
    ones, zeros, steps = [1] * axes, [0] * axes, [2 if kind == "dilated" else 1] * axes
    if kind == "transposed":
        y = ops.convolution_backprop_data(x, weights, ones, None, zeros, zeros, steps)
    else:
        y = ops.convolution(x, weights, ones, zeros, zeros, steps)
    made: Any = openvino.Model  # its stub takes another Model for self
    openvino.save_model(made([ops.add(y, y)], [x], "w"), path)


def _window_ncnn(path: Path, kind: str, axes: int, shape: tuple[Any, ...]) -> None:
    name = {"transposed": "Deconvolution", "volume": "Convolution3D"}.get(kind, "Convolution")
    size, dilation = 16 * 16 * 3**axes, 2 if kind == "dilated" else 1
    sizes = {4: "0=8 1=8 2=16", 5: "0=8 1=8 11=8 2=16"}[len(shape)]
    lines = [
        "7767517",
        "3 3",
        f"Input in 0 1 in0 {sizes}",
        f"{name} conv 1 1 in0 a 0=16 1=3 2={dilation} 5=0 6={size}",
        "UnaryOp out 1 1 a out0 0=0",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    path.with_suffix(".bin").write_bytes(bytes(4) + np.ones(size, np.float32).tobytes())


def _window_tflite(path: Path, kind: str, axes: int, shape: tuple[Any, ...]) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    builtin = {"transposed": "TRANSPOSE_CONV", "volume": "CONV_3D"}.get(kind, "CONV_2D")
    options = {"transposed": schema.TransposeConvOptionsT, "volume": schema.Conv3DOptionsT}.get(
        kind, schema.Conv2DOptionsT
    )()
    options.strideH = options.strideW = 1
    if kind == "dilated":
        options.dilationHFactor = options.dilationWFactor = 2
    sizes = [axis if isinstance(axis, int) else 1 for axis in shape]
    weights = np.ones((16, 3, 3, 16) if axes == 2 else (3, 3, 3, 16, 16), np.float32)
    model, graph, operator, add = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT(), schema.BufferT()]
    content: Any = np.frombuffer(weights.tobytes(), np.uint8)  # the stub knows lists alone
    model.buffers[1].data = content
    model.operatorCodes = [schema.OperatorCodeT(), schema.OperatorCodeT()]
    for code, name in zip(model.operatorCodes, (builtin, "ADD"), strict=True):
        code.builtinCode = getattr(schema.BuiltinOperator, name)
    tensors = [("x", sizes, 0), ("w", weights.shape, 1), ("a", sizes, 0), ("y", sizes, 0)]
    graph.tensors = []
    for name, of, buffer in tensors:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = name, list(of), buffer, 0
        graph.tensors.append(tensor)
    graph.tensors[0].shapeSignature = [axis if isinstance(axis, int) else -1 for axis in shape]
    operator.inputs, operator.outputs = [1, 1, 0] if kind == "transposed" else [0, 1], [2]
    operator.builtinOptions, operator.builtinOptionsType = (
        options,
        getattr(schema.BuiltinOptions, type(options).__name__[:-1]),
    )
    add.inputs, add.outputs, add.opcodeIndex = [2, 2], [3], 1
    graph.inputs, graph.outputs, graph.operators = [0], [3], [operator, add]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


_WRITERS = {".onnx": _window_onnx, ".xml": _window_openvino, ".param": _window_ncnn, ".tflite": _window_tflite}


def convolutions(path: Path, width: int, groups: int = 1, size: int = 56) -> Path:
    """Stem, two 3x3 (grouped, perhaps), one 1x1, a global average, a dense layer."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1], group=groups),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w1b"], ["e"], pads=[1, 1, 1, 1], group=groups),
        node("Conv", ["e", "w2"], ["f"]),
        node("GlobalAveragePool", ["f"], ["g"]),
        node("Flatten", ["g"], ["h"]),
        node("Gemm", ["h", "w3"], ["y"], transB=1),
    ]
    weights = {
        "w0": (width, 3, 3, 3),
        "w1": (width, width // groups, 3, 3),
        "w1b": (width, width // groups, 3, 3),
        "w2": (width, width, 1, 1),
        "w3": (10, width),
    }
    return save(path, nodes, weights, ("batch", 3, size, size))


def transformer(path: Path, tokens: int = 64, width: int = 128) -> Path:
    """One attention and one dense block over tokens."""
    node = helper.make_node
    nodes = [
        *(node("MatMul", ["x", f"w{n}"], [n]) for n in "qkv"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["o"]),
        node("MatMul", ["o", "w1"], ["m"]),
        node("MatMul", ["m", "w2"], ["y"]),
    ]
    weights = {**{f"w{n}": (width, width) for n in "qkv"}, "w1": (width, 4 * width), "w2": (4 * width, width)}
    return save(path, nodes, weights, (1, tokens, width))
