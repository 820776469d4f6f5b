"""TFLite files written by hand: what they compute is known beforehand."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

_OPTIONS = {"FULLY_CONNECTED": "FullyConnectedOptions", "ADD": "AddOptions"}


def write(
    path: Path, tensors: list[Any], codes: list[str], wires: list[tuple[list[int], int]], ends: list[int]
) -> Path:
    """A TFLite file: (shape, dtype, scale, zero point, content or None) per tensor, an operator per wire."""
    import flatbuffers

    schema: Any = importlib.import_module("ai_edge_litert.schema_py_generated")
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    model.operatorCodes, graph.operators, graph.tensors = [], [], []
    for number, (shape, dtype, scale, zero_point, content) in enumerate(tensors):
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.shape = f"t{number}", list(shape)
        tensor.type = getattr(schema.TensorType, np.dtype(dtype).name.upper())
        if scale:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero_point]
        if content is not None:
            buffer.data = np.frombuffer(np.asarray(content, dtype).tobytes(), np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(tensor)
    for number, (word, (inputs, output)) in enumerate(zip(codes, wires, strict=True)):
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, word)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        model.operatorCodes.append(code)
        operator.opcodeIndex, operator.inputs, operator.outputs = number, inputs, [output]
        if word in _OPTIONS:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, _OPTIONS[word])
            operator.builtinOptions = getattr(schema, f"{_OPTIONS[word]}T")()
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [ends[0]], [ends[1]]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
