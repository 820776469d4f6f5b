"""OpenVINO IR (.xml and .bin): dynamic batch, fp32 weights kept as fp32; int8 by NNCF.

The way leads through ONNX, which keeps all axes but the batch static.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.types import Artifact, Check, MacCount, Precision, State, file_sha256

from ._common import conversion, opens, torch_to_onnx, weighted_macs
from ._openvino_ir import save
from ._openvino_metadata import embed as embed  # noqa: PLC0414 - this exporter's verb, in a file of its own
from ._openvino_metadata import metadata as metadata  # noqa: PLC0414 - likewise
from ._openvino_quantization import layers as layers  # noqa: PLC0414 - this exporter's verb, in a file of its own
from ._openvino_quantization import quantize as quantize  # noqa: PLC0414 - likewise
from ._openvino_quantization import schemes as schemes  # noqa: PLC0414 - likewise
from ._qat_openvino import quantize_trained as quantize_trained  # noqa: PLC0414 - likewise
from ._tensors_openvino import tensors as tensors  # noqa: PLC0414 - this exporter's verb, in a file of its own

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.types import Array, Signature

REQUIRES = ("openvino", "nncf", "onnx", "onnxscript")
TOOLS = ("torch", "onnx", "onnxscript", "openvino", "nncf")
RUNTIMES = {"openvino": "openvino"}
PRECISIONS = (
    Precision.FP32, Precision.INT8_STATIC, Precision.FP16, Precision.INT8_WEIGHTS, Precision.INT4_WEIGHTS,
)  # fmt: skip
SUFFIX = ".xml"
RUNNER = ("run_openvino.py", Path(__file__).with_name("_run_openvino.py"))

_CHANNEL_AXIS = {"Convolution": 1, "GroupConvolution": 1}


def export(
    model: Any,
    name: str,
    signature: Signature,
    out: Path,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,
) -> Artifact:
    """Torch -> ONNX -> OpenVINO IR; or an ONNX file -> IR."""
    import openvino

    graph = model if isinstance(model, Path) else out / f".{name}.onnx"
    with conversion(name, "openvino"):
        if not isinstance(model, Path):
            torch_to_onnx(model, signature, graph, examples, opset)
        converted = openvino.convert_model(str(graph))
    if graph is not model:
        graph.unlink()
    return save(converted, out / f"{name}-fp32.xml", name, Precision.FP32, signature, {})


def check_support(artifact: Artifact) -> list[Check]:
    """Compile the file for the CPU plug-in; its weights must be those it was written with."""
    weights = artifact.path.with_suffix(".bin")
    if not weights.is_file() or file_sha256(weights).encode() not in artifact.path.read_bytes():
        reason = f"{weights.name} is not the one that {artifact.path.name} was written with"
        return [Check(f"support:{artifact.id}:openvino", State.FAIL, reason)]
    return [opens(artifact, runtime) for runtime in RUNTIMES]


def count_macs(artifact: Artifact) -> MacCount:
    """Convolutions and matrix products, integer where the CPU plug-in executes them on 8-bit tensors.

    The file only says where it is quantised; the compiled model says what is executed. Recurrent operators
    are not counted.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(artifact.path)
    model.reshape({port: [1, *list(port.get_partial_shape())[1:]] for port in model.inputs})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    integer_names = [
        name
        for node in compiled.get_runtime_model().get_ops()
        if _info(node, "runtimePrecision") in ("u8", "i8")
        for name in _info(node, "originalLayersNames").split(",")
    ]
    total = integer = 0
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind not in (*_CHANNEL_AXIS, "MatMul"):
            continue
        output, left, right = (
            [int(d) for d in shape]
            for shape in (node.get_output_shape(0), node.get_input_shape(0), node.get_input_shape(1))
        )
        if kind == "MatMul":
            macs = math.prod(output) * (left[-2] if node.get_attributes().get("transpose_a") else left[-1])
        else:
            macs = weighted_macs(right, output, _CHANNEL_AXIS[kind])
        total += macs
        name = node.get_friendly_name()
        if any(executed == name or executed.startswith(f"{name}/") for executed in integer_names):
            integer += macs
    return MacCount(total, integer)


def _info(node: Any, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""
