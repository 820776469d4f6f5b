"""Quantised TFLite."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from edgedistill.types import Array, Artifact, Precision, Scheme, Signature, TensorSpec

from ._common import conversion

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_SCHEMES = (Scheme("extremes", {"extremes": True}), Scheme("moving-average", {"extremes": False}))
_LAYERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"}


def schemes(precision: Precision) -> tuple[Scheme, ...]:
    """Ways to static int8, the default first: extremes of all samples, ai-edge-quantizer's moving average."""
    return _SCHEMES if precision is Precision.INT8_STATIC else ()


def layers(artifact: Artifact) -> list[str]:
    """Layers with weights (and matrix products), by the name of their output, in the order of the graph."""
    from ai_edge_litert import schema_py_generated as schema

    words = {code: name for name, code in vars(schema.BuiltinOperator).items() if name in _LAYERS}
    model = read(artifact.path)
    graph = model.subgraphs[0]
    weighted = [op for op in graph.operators if model.operatorCodes[op.opcodeIndex].builtinCode in words]
    return [graph.tensors[op.outputs[0]].name.decode() for op in weighted]


def quantize(
    artifact: Artifact,
    precision: Precision,
    calibration: Mapping[str, Array],
    out: Path,
    scheme: Scheme | None = None,
) -> Artifact:
    """Static full-integer int8 by ai-edge-quantizer.

    Its own calibration keeps a moving average of the ranges, which clips the logits; the extremes over
    all calibration samples are what every other runtime here uses.
    """
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    chosen = scheme or _SCHEMES[0]
    path = out / f"{artifact.model}-{precision.short}.tflite"
    names = _signature_inputs(artifact.path)
    rows = list(calibration.values())
    samples = [{name: row[i : i + 1] for name, row in zip(names, rows, strict=True)} for i in range(len(rows[0]))]
    with conversion(artifact.id, "ai-edge-quantizer"):
        tool = quantizer.Quantizer(str(artifact.path), recipe.static_wi8_ai8())
        every = qtyping.TFLOperationName.ALL_SUPPORTED
        for layer in chosen.keep_float:
            tool.update_quantization_recipe(f"^{re.escape(layer)};?$", every, algorithm_key="no_quantize")
        update = qsv_utils.min_max_update if chosen.options["extremes"] else qsv_utils.moving_average_update
        ranges = calibrator.Calibrator(str(artifact.path), num_threads=1, qsv_update_func=update)
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
        producer={"parent": artifact.sha256, "scheme": chosen.name, "keep_float": list(chosen.keep_float)},
    )


def read(path: Path) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(path.read_bytes()), 0))


def _signature_inputs(path: Path) -> list[str]:
    """Input names of the file's signature, in the order of its tensors."""
    (signature,) = read(path).signatureDefs
    return [tensor.name.decode() for tensor in sorted(signature.inputs, key=lambda t: t.tensorIndex)]


def _as_int8(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(s.name, s.shape, "int8", s.layout) for s in specs)
