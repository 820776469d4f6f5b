"""TFLite, for tflite-runtime 2.14 and LiteRT: batch 1, layout as in torch; int8 is full-integer, ends included."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.types import Array, Artifact, MacCount, Precision, Signature, TensorSpec

from ._common import conversion, example, opens, weighted_macs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.types import Check

REQUIRES = ("litert_torch", "ai_edge_quantizer", "ai_edge_litert", "tflite_runtime")
TOOLS = ("torch", "litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert")
RUNTIMES = {"tflite-runtime": "tflite_runtime", "litert": "ai_edge_litert"}
PRECISIONS = (Precision.FP32, Precision.INT8_STATIC)
SUFFIX = ".tflite"
RUNNER = ("run_tflite.py", Path(__file__).with_name("_run_tflite.py"))

_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}


def export(model: Any, name: str, signature: Signature, out: Path) -> Artifact:
    """Torch -> TFLite (litert-torch)."""
    import litert_torch

    path = out / f"{name}-fp32.tflite"
    named = {spec.name: tensor for spec, tensor in zip(signature.inputs, example(signature, batch=1), strict=True)}
    with conversion(name, "litert-torch"):
        litert_torch.convert(model, sample_kwargs=_by_parameter(model, named)).export(str(path))
    fixed = Signature(
        _batch_of_one(signature.inputs),
        _batch_of_one(signature.outputs),
        signature.normalization,
        signature.labels,
    )
    return Artifact.of_files(path, model=name, fmt="tflite", precision=Precision.FP32, signature=fixed)


def quantize(artifact: Artifact, precision: Precision, calibration: Mapping[str, Array], out: Path) -> Artifact:
    """Static full-integer int8 by ai-edge-quantizer.

    Its own calibration keeps a moving average of the ranges, which clips the logits; the extremes over
    all calibration samples are what every other runtime here uses.
    """
    from ai_edge_quantizer import calibrator, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    path = out / f"{artifact.model}-{precision.short}.tflite"
    names = _signature_inputs(artifact.path)
    rows = list(calibration.values())
    samples = [{name: row[i : i + 1] for name, row in zip(names, rows, strict=True)} for i in range(len(rows[0]))]
    with conversion(artifact.id, "ai-edge-quantizer"):
        tool = quantizer.Quantizer(str(artifact.path), recipe.static_wi8_ai8())
        ranges = calibrator.Calibrator(str(artifact.path), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        ranges.calibrate({"serving_default": samples}, tool._recipe_manager)  # noqa: SLF001 - no public way to the ranges
        result = tool.quantize(ranges.get_model_qsvs(), enable_progress_report=False)
        result.export_model(str(path), overwrite=True)
    signature = artifact.signature
    integer = Signature(
        _as_int8(signature.inputs), _as_int8(signature.outputs), signature.normalization, signature.labels
    )
    return Artifact.of_files(
        path,
        model=artifact.model,
        fmt="tflite",
        precision=precision,
        signature=integer,
        producer={"parent": artifact.sha256},
    )


def check_support(artifact: Artifact) -> list[Check]:
    """Open the file in both runtimes."""
    return [opens(artifact, runtime) for runtime in RUNTIMES]


def count_macs(artifact: Artifact) -> MacCount:
    """Convolutions, dense layers and matrix products, by the types of the tensors in the file."""
    from ai_edge_litert import schema_py_generated as schema

    model = _read(artifact.path)
    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    total = integer = 0
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            kind = names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "")
            if kind not in _WEIGHTED and kind != "BATCH_MATMUL":
                continue
            left, right = (graph.tensors[i] for i in operator.inputs[:2])
            output = [int(d) for d in graph.tensors[operator.outputs[0]].shape]
            if kind in _WEIGHTED:
                macs = weighted_macs([int(d) for d in right.shape], output, -1)
            else:
                macs = math.prod(output) * int(left.shape[-1])
            total += macs
            if left.type == right.type == schema.TensorType.INT8:
                integer += macs
    return MacCount(total, integer)


def _read(path: Path) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(path.read_bytes()), 0))


def _signature_inputs(path: Path) -> list[str]:
    """Input names of the file's signature, in the order of its tensors."""
    (signature,) = _read(path).signatureDefs
    return [tensor.name.decode() for tensor in sorted(signature.inputs, key=lambda t: t.tensorIndex)]


def _by_parameter(model: Any, named: dict[str, Any]) -> dict[str, Any]:
    """Examples under the names of forward's parameters, which litert-torch needs to name the inputs."""
    import inspect

    parameters = list(inspect.signature(model.forward).parameters)
    return dict(zip(parameters, named.values(), strict=False))


def _batch_of_one(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(s.name, (1, *s.shape[1:]), s.dtype, s.layout) for s in specs)


def _as_int8(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(s.name, s.shape, "int8", s.layout) for s in specs)
