"""ONNX, for onnxruntime: one file, dynamic batch; int8 as QDQ with uint8 activations, int8 weights per channel.

uint8 activations because onnxruntime's x86 kernels for int8 by int8 are several times slower.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.types import Artifact, MacCount, Precision

from ._common import conversion, example, supported, torch_to_onnx, weighted_macs
from ._onnx_metadata import embed as embed  # noqa: PLC0414 - this exporter's verb, in a file of its own
from ._onnx_metadata import metadata as metadata  # noqa: PLC0414 - likewise
from ._onnx_precisions import PRECISIONS as PRECISIONS  # noqa: PLC0414 - likewise
from ._onnx_quantization import layers as layers  # noqa: PLC0414 - this exporter's verb, in a file of its own
from ._onnx_quantization import quantize as quantize  # noqa: PLC0414 - likewise
from ._onnx_quantization import schemes as schemes  # noqa: PLC0414 - likewise
from ._qat_onnx import quantize_trained as quantize_trained  # noqa: PLC0414 - likewise
from ._support_convert import foresee_onnx as foresee  # noqa: F401 - likewise
from ._support_onnx import inventory as inventory  # noqa: PLC0414 - likewise
from ._support_onnx import refusals as refusals  # noqa: PLC0414 - likewise
from ._tensors_onnx import tensors as tensors  # noqa: PLC0414 - this exporter's verb, in a file of its own

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.types import Array, Check, Signature

REQUIRES = ("onnx", "onnxruntime", "onnxscript")
TOOLS = ("torch", "onnx", "onnxruntime", "onnxscript")
RUNTIMES = {"onnxruntime": "onnxruntime"}
SUFFIX = ".onnx"
RUNNER = ("run_onnxruntime.py", Path(__file__).with_name("_run_onnxruntime.py"))

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
    "QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}  # fmt: skip


def export(
    model: Any,
    name: str,
    signature: Signature,
    out: Path,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,
) -> Artifact:
    """Torch -> ONNX (torch.onnx, dynamo); an ONNX file is checked, and copied into one file."""
    path = out / f"{name}-fp32.onnx"
    if isinstance(model, Path):
        with conversion(name, "onnx"):
            _copy(model, path)
    else:
        with conversion(name, "torch.onnx", model, example(signature, 2, examples)):
            torch_to_onnx(model, signature, path, examples, opset)
    return Artifact.of_files(path, model=name, fmt="onnx", precision=Precision.FP32, signature=signature)


def _copy(source: Path, path: Path) -> None:
    import onnx

    model = onnx.load(str(source))  # with the data that stands beside it
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def check_support(artifact: Artifact) -> list[Check]:
    """Open the file in onnxruntime, unless its operators or versions tell that it cannot."""
    return supported(artifact, RUNTIMES, refusals)


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


def _counted(graph: Any, shapes: dict[str, list[int]]) -> MacCount:
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


def _shapes(model: Any) -> dict[str, list[int]]:
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
