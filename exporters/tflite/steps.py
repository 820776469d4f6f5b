"""The unit of each output of a TFLite file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .flatbuffer import read

if TYPE_CHECKING:
    from pathlib import Path

    from .schema import Tensor


def output_steps(path: Path) -> list[float]:
    """Step (scale) of each output, in the file's order; 0 for one that is computed in float.

    A float output that is an integer one, dequantised, has the step of that one.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = read(path)
    graph = model.subgraphs[0]
    makers = {int(i): operator for operator in graph.operators for i in operator.outputs}

    def counted(index: int) -> int:
        maker = makers.get(index)
        if maker is None or model.operatorCodes[maker.opcodeIndex].builtinCode != schema.BuiltinOperator.DEQUANTIZE:
            return index
        return int(maker.inputs[0])  # the tensor before it

    return [_step(graph.tensors[counted(int(index))]) for index in graph.outputs]


def _step(tensor: Tensor) -> float:
    from ai_edge_litert import schema_py_generated as schema

    if tensor.type not in (schema.TensorType.INT8, schema.TensorType.UINT8) or tensor.quantization is None:
        return 0.0
    scale = tensor.quantization.scale
    return float(scale[0]) if scale is not None and len(scale) == 1 else 0.0
