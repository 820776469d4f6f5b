"""ONNX in other precisions than static int8: half floats, integers made at run time, integer weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.errors import ModelError
from edgedistill.types import Precision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onnx import NodeProto, TensorProto

    from edgedistill.types import Array

_CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}
"""Axis of the weights' output channels; those of Gemm depend on `transB`, those of Gather are its rows."""
_LEAST = 1e-12
_BLOCK = 32
"""Weights that share a scale in 4 bits."""


def write(precision: Precision, source: Path, path: Path) -> None:
    """Write a copy of an fp32 file.

    Raises:
        ModelError: the file has nothing that the precision is for.
    """
    _WRITERS[precision](source, path)


def _fp16(source: Path, path: Path) -> None:
    """Weights and computation in half floats; inputs and outputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _int8_dynamic(source: Path, path: Path) -> None:
    """Integer weights per channel; activations get their range at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name(f".{path.stem}-prepared.onnx")
    try:
        quant_pre_process(str(source), str(prepared))
        quantize_dynamic(str(prepared), str(path), per_channel=True, weight_type=QuantType.QInt8)
    finally:
        prepared.unlink(missing_ok=True)


def _int8_weights(source: Path, path: Path) -> None:
    """Weights as int8 with a scale per output channel, computed with in float32 (DequantizeLinear before each)."""
    import onnx

    model = onnx.load(str(source))
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        for position, counted in _weights(node):
            name = node.input[position]
            if name in values and name not in made and values[name].data_type == onnx.TensorProto.FLOAT:
                weights = onnx.numpy_helper.to_array(values[name])
                axis = counted % weights.ndim
                made[name] = f"{name}_dequantized"
                graph.initializer.extend(_rounded(name, weights, axis))
                inputs = [f"{name}_int8", f"{name}_scale"]
                nodes.append(onnx.helper.make_node("DequantizeLinear", inputs, [made[name]], made[name], axis=axis))
            if name in made:
                node.input[position] = made[name]
    if not made:
        raise ModelError(
            "the model has no weights that could be stored in 8 bits",
            where=str(source),
            expected="a convolution, a matrix product with constant weights, or an embedding",
            got=", ".join(sorted({node.op_type for node in graph.node})) or "an empty graph",
            fix="leave int8-weights out of the precisions",
        )
    others = list(graph.node)
    used = {name for node in others for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in made or tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend([*nodes, *others])
    graph.initializer.extend(kept)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _weights(node: NodeProto) -> list[tuple[int, int]]:
    """(position, axis of the channels) of what may be stored as integers among a node's inputs."""
    if node.op_type in _CHANNEL_AXIS:
        return [(1, _CHANNEL_AXIS[node.op_type])]
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return [(1, 0 if transposed else 1)]
    return [(0, 0)] if node.op_type == "Gather" else []


def _rounded(name: str, weights: Array, axis: int) -> list[TensorProto]:
    """int8 weights and their scales, symmetric, the largest magnitude of each channel being 127."""
    import onnx

    others = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.maximum(np.abs(weights).max(axis=others, keepdims=True), _LEAST) / 127
    integers = np.clip(np.round(weights / scale), -127, 127).astype(np.int8)
    return [
        onnx.numpy_helper.from_array(integers, f"{name}_int8"),
        onnx.numpy_helper.from_array(scale.reshape(-1).astype(np.float32), f"{name}_scale"),
    ]


def _int4_weights(source: Path, path: Path) -> None:
    """Weights of matrix products in 4 bits, a scale for 32 of them (MatMulNBits); computed with in float32."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = ONNXModel(onnx.load(str(source)))
    model.replace_gemm_with_matmul()
    tool: Any = MatMulNBitsQuantizer(model.model, bits=4, block_size=_BLOCK, is_symmetric=True)
    tool.process()
    written = tool.model.model
    if not any(node.op_type == "MatMulNBits" for node in written.graph.node):
        raise ModelError(
            "the model has no matrix product whose weights could be stored in 4 bits",
            where=str(source),
            expected="a dense layer or another product with constant weights",
            got=", ".join(sorted({node.op_type for node in written.graph.node})),
            fix="leave int4-weights out of the precisions; onnxruntime has no 4-bit convolution",
        )
    path.write_bytes(written.SerializeToString(deterministic=True))


_WRITERS: dict[Precision, Callable[[Path, Path], None]] = {
    Precision.FP16: _fp16,
    Precision.INT8_DYNAMIC: _int8_dynamic,
    Precision.INT8_WEIGHTS: _int8_weights,
    Precision.INT4_WEIGHTS: _int4_weights,
}
PRECISIONS = (Precision.FP32, Precision.INT8_STATIC, *_WRITERS)
