"""MACs of an ONNX file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.types import Artifact, MacCount

from .._shared.conversion import weighted_macs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

# operator -> (position of the weights, axis of the output channels); None: a product of activations
_MAC_OPERATORS = {
    "Conv": (1, 1),
    "FusedConv": (1, 1),
    "QLinearConv": (3, 1),
    "Gemm": (1, -1),
    "QGemm": (3, -1),
    "MatMul": (1, -1),
    "FusedMatMul": (1, -1),
    "QLinearMatMul": (3, -1),
    "ConvInteger": (1, 1),
    "MatMulInteger": (1, -1),
    "MatMulIntegerToFloat": (1, -1),
    "DynamicQuantizeMatMul": (1, -1),
}


_INTEGER_OPERATORS = {
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}


def count_macs(artifact: Artifact) -> MacCount:
    """Convolutions and matrix products of the graph that onnxruntime executes after its fusions.

    In a QDQ file every operator looks like float; only the optimised graph tells which became integer
    kernels. Recurrent operators are not counted.
    """
    import tempfile

    import onnx
    import onnxruntime

    shapes = _shapes(onnx.load(str(artifact.path)))
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(optimized)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(str(optimized), load_external_data=False).graph  # its weights lie beside the first file
    counted = _counted(graph, shapes)
    # Half floats: optimised tensors are renamed, and casts end the inference of shapes
    return counted if counted.total else _counted(onnx.load(str(artifact.path)).graph, _ran_shapes(artifact.path))


def _counted(graph: GraphProto, shapes: dict[str, list[int]]) -> MacCount:
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    total = integer = 0
    for node in graph.node:
        if node.op_type not in _MAC_OPERATORS:
            continue
        position, axis = _MAC_OPERATORS[node.op_type]
        output = shapes.get(node.output[0])
        weight = weights.get(node.input[position])
        if not output:
            continue
        if weight is None:  # both factors are activations
            left = shapes.get(node.input[0])
            macs = math.prod(output) * left[-1] if left else 0
        else:
            macs = weighted_macs(weight, output, axis)
        total += macs
        integer += macs if node.op_type in _INTEGER_OPERATORS else 0
    return MacCount(total, integer)


def _ran_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes of the tensors that `count_macs` asks for, from one run on zeros at batch 1."""
    import numpy as np
    import onnx
    import onnxruntime

    model = onnx.load(str(path))
    counted = [node for node in model.graph.node if node.op_type in _MAC_OPERATORS]
    made = {name for node in model.graph.node for name in node.output}
    asked = {name for node in counted for name in (node.output[0], node.input[0]) if name in made}
    asked -= {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(asked))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session: Any = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    zeros = {
        value.name: np.zeros(
            [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim],
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in model.graph.input
    }
    names = [value.name for value in session.get_outputs()]
    return {name: list(found.shape) for name, found in zip(names, session.run(names, zeros), strict=True)}


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """Shapes of all tensors at batch 1."""
    import onnx

    del model.graph.value_info[:]
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") != "dim_value":
                dim.dim_value = 1
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: [int(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
