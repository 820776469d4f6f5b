"""The unit of each output of a TFLite file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .flatbuffer import read

if TYPE_CHECKING:
    from pathlib import Path


def output_steps(path: Path) -> list[float]:
    """Step (scale) of each output, in the file's order; 0 for one that is computed in float.

    A float output that is an integer one, dequantised, has the step of that one.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = read(path)
    graph = model.subgraphs[0]
    makers: dict[int, Any] = {int(i): operator for operator in graph.operators for i in operator.outputs}
    steps = []
    for index in map(int, graph.outputs):
        maker = makers.get(index)
        if (
            maker is not None
            and model.operatorCodes[maker.opcodeIndex].builtinCode == schema.BuiltinOperator.DEQUANTIZE
        ):
            index = int(maker.inputs[0])  # noqa: PLW2901 - the tensor before it
        steps.append(_step(graph.tensors[index]))
    return steps


def _step(tensor: Any) -> float:
    from ai_edge_litert import schema_py_generated as schema

    if tensor.type not in (schema.TensorType.INT8, schema.TensorType.UINT8) or tensor.quantization is None:
        return 0.0
    scale = tensor.quantization.scale
    return float(scale[0]) if scale is not None and len(scale) == 1 else 0.0
