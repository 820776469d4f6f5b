"""OpenVINO IR (.xml and .bin): dynamic batch, fp32 weights kept as fp32; int8 by NNCF.

The way leads through ONNX, which keeps all axes but the batch static.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.types import Array, Artifact, Check, MacCount, Precision, State, file_sha256

from ._common import conversion, opens, torch_to_onnx, weighted_macs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.types import Json, Signature

REQUIRES = ("openvino", "nncf", "onnx", "onnxscript")
TOOLS = ("torch", "onnx", "onnxscript", "openvino", "nncf")
RUNTIMES = {"openvino": "openvino"}
PRECISIONS = (Precision.FP32, Precision.INT8_STATIC)
SUFFIX = ".xml"
RUNNER = ("run_openvino.py", Path(__file__).with_name("_run_openvino.py"))

_CHANNEL_AXIS = {"Convolution": 1, "GroupConvolution": 1}


def export(model: Any, name: str, signature: Signature, out: Path) -> Artifact:
    """Torch -> ONNX -> OpenVINO IR."""
    import openvino

    graph = out / f".{name}.onnx"
    with conversion(name, "openvino"):
        torch_to_onnx(model, signature, graph)
        converted = openvino.convert_model(str(graph))
    graph.unlink()
    return _save(converted, out / f"{name}-fp32.xml", name, Precision.FP32, signature, {})


def quantize(artifact: Artifact, precision: Precision, calibration: Mapping[str, Array], out: Path) -> Artifact:
    """Static int8 by NNCF on all calibration samples.

    Not NNCF's defaults: those average the ranges of samples, which clips the logits, and their fast bias
    correction cost a 438-parameter student a tenth of its answers (agreement with torch 0.895, against
    0.993 with these settings, n = 899).
    """
    import nncf
    import openvino

    rows = list(calibration.values())
    samples = [tuple(row[i : i + 1] for row in rows) for i in range(len(rows[0]))]
    items = samples if len(rows) > 1 else [sample[0] for sample in samples]
    with conversion(artifact.id, "nncf"):
        model = openvino.Core().read_model(artifact.path)
        quantized = nncf.quantize(
            model,
            nncf.Dataset(items),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(items),
            fast_bias_correction=False,
            advanced_parameters=nncf.AdvancedQuantizationParameters(activations_range_estimator_params=_extremes()),
        )
    path = out / f"{artifact.model}-{precision.short}.xml"
    return _save(quantized, path, artifact.model, precision, artifact.signature, {"parent": artifact.sha256})


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


def _save(model: Any, path: Path, name: str, precision: Precision, signature: Signature, producer: Json) -> Artifact:
    """Write IR whose bytes depend on the model alone, the .xml vouching for the .bin."""
    import openvino

    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):  # these carry the signature's names
            node.set_friendly_name(f"{node.get_type_name()}_{number}")  # else a counter of the process
    openvino.save_model(model, path, compress_to_fp16=False)
    weights = path.with_suffix(".bin")
    model.set_rt_info(file_sha256(weights), ["edgedistill", "weights_sha256"])
    openvino.save_model(model, path, compress_to_fp16=False)
    return Artifact.of_files(
        path,
        model=name,
        fmt="openvino",
        precision=precision,
        signature=signature,
        companions=(weights,),
        producer=producer,
    )


def _extremes() -> Any:
    """Ranges from the smallest to the largest value over all samples."""
    from nncf.quantization import range_estimator as ranges

    return ranges.RangeEstimatorParameters(
        min=ranges.StatisticsCollectorParameters(ranges.StatisticsType.MIN, ranges.AggregatorType.MIN),
        max=ranges.StatisticsCollectorParameters(ranges.StatisticsType.MAX, ranges.AggregatorType.MAX),
    )


def _info(node: Any, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""
