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
    return _SCHEMES if precision is Precision.INT8_STATIC else (Scheme(precision.short),)


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
    """Static int8 by ai-edge-quantizer, full-integer or with float ends (`float_ends`); or its other recipes.

    Its own calibration keeps a moving average of the ranges, which clips the logits; the extremes over
    all calibration samples are what every other runtime here uses.
    """
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    chosen = scheme or schemes(precision)[0]
    path = out / f"{artifact.model}-{precision.short}.tflite"
    made = {"parent": artifact.sha256, "scheme": chosen.name, "keep_float": list(chosen.keep_float)}
    if precision is not Precision.INT8_STATIC:
        with conversion(artifact.id, "ai-edge-quantizer"):
            _smaller_weights(artifact.path, precision, path)
        return Artifact.of_files(
            path, model=artifact.model, fmt="tflite", precision=precision, signature=artifact.signature, producer=made
        )
    float_ends = bool(chosen.options.get("float_ends"))
    names = _signature_inputs(artifact.path)
    taken = {spec.name: spec.dtype for spec in artifact.signature.inputs}
    rows = [values.astype(taken.get(name, values.dtype), copy=False) for name, values in calibration.items()]
    samples = [{name: row[i : i + 1] for name, row in zip(names, rows, strict=True)} for i in range(len(rows[0]))]
    with conversion(artifact.id, "ai-edge-quantizer"):
        tool = quantizer.Quantizer(str(artifact.path), recipe.static_wi8_ai8())
        every = qtyping.TFLOperationName.ALL_SUPPORTED
        for layer in chosen.keep_float:
            tool.update_quantization_recipe(f"^{re.escape(layer)};?$", every, algorithm_key="no_quantize")
        if float_ends:
            for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
                tool.update_quantization_recipe(".*", end, algorithm_key="no_quantize")
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
        signature=signature if float_ends else integer,
        producer=made | ({"ends": "float32"} if float_ends else {}),
    )


def _smaller_weights(source: Path, precision: Precision, path: Path) -> None:
    """Half floats; integer weights, activations rounded at run time; or integer weights alone, dequantised first."""
    from ai_edge_quantizer import qtyping, quantizer, recipe

    tool = quantizer.Quantizer(str(source))
    if precision is Precision.FP16:
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
        )
        every = qtyping.TFLOperationName.ALL_SUPPORTED
        tool.update_quantization_recipe(".*", every, config, algorithm_key="float_casting")
    elif precision is Precision.INT8_DYNAMIC:
        tool.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    elif precision is Precision.INT8_WEIGHTS:
        tool.load_quantization_recipe(recipe.weight_only_wi8_afp32())
    else:
        tool.load_quantization_recipe(recipe.weight_only_wi4_afp32())
    tool.quantize(enable_progress_report=False).export_model(str(path), overwrite=True)


def read(path: Path) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(path.read_bytes()), 0))


def _signature_inputs(path: Path) -> list[str]:
    """Input names of the file's signature, in the order of its tensors."""
    (signature,) = read(path).signatureDefs
    return [tensor.name.decode() for tensor in sorted(signature.inputs, key=lambda t: t.tensorIndex)]


def _as_int8(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Float ends become int8; class numbers stay what they are."""
    return tuple(s if s.dtype.startswith("int") else TensorSpec(s.name, s.shape, "int8", s.layout) for s in specs)
