"""Quantised TFLite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.types import Array, Artifact, Precision, QuantizationScheme

from .._shared.conversion import conversion
from .calibration import described, ranges, signature_inputs
from .flatbuffer import read
from .histogram import clipped_ranges
from .runtime import interpreter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ai_edge_quantizer.qtyping import QSV, OpQuantizationConfig

    from .histogram import Method
    from .interpreter import Interpreter

_SCHEMES = (
    QuantizationScheme("extremes", {}, placement="all operators"),
    QuantizationScheme("percentile", {"clip": "percentile"}, placement="all operators"),
    QuantizationScheme("mse", {"clip": "mse"}, placement="all operators"),
    QuantizationScheme("moving-average", {"moving_average": True}, placement="all operators"),
    QuantizationScheme("extremes-symmetric", {"symmetric": True}, placement="symmetric"),
    QuantizationScheme("extremes-weighted", {"operators": "weighted"}, placement="weighted operators, float ends"),
)
_OPERATOR_NAMES = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}
"""Operators of the schema that ai-edge-quantizer has under another name."""
_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")


def schemes(precision: Precision) -> tuple[QuantizationScheme, ...]:
    """Ways to static int8, the default first.

    Ranges are the extremes of all samples, those without outliers, or ai-edge-quantizer's moving average; operators
    without weights are quantised too, or not.
    """
    return _SCHEMES if precision is Precision.INT8_STATIC else (QuantizationScheme(precision.short),)


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
    scheme: QuantizationScheme | None = None,
) -> Artifact:
    """Static int8 by ai-edge-quantizer, full-integer or with float ends (`float_ends`); or its other recipes.

    Its own calibration keeps a moving average of the ranges, which clips the logits; the extremes over
    all calibration samples are what every other runtime here uses.
    """
    chosen = scheme or schemes(precision)[0]
    path = out / f"{artifact.model}-{precision.short}.tflite"
    made = {"parent": artifact.sha256, "scheme": chosen.name, "keep_float": list(chosen.keep_float)}
    if precision is not Precision.INT8_STATIC:
        with conversion(artifact.id, "ai-edge-quantizer"):
            _smaller_weights(artifact.path, precision, path)
        return Artifact.of_files(
            path, model=artifact.model, fmt="tflite", precision=precision, signature=artifact.signature, producer=made
        )
    float_ends = bool(chosen.options.get("float_ends")) or chosen.options.get("operators") == "weighted"
    with conversion(artifact.id, "ai-edge-quantizer"):
        _static(artifact, calibration, path, chosen, float_ends=float_ends)
    return described(path, artifact, precision, made, float_ends=float_ends)


def _static(
    artifact: Artifact, calibration: Mapping[str, Array], path: Path, chosen: QuantizationScheme, *, float_ends: bool
) -> None:
    from ai_edge_quantizer import qtyping, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    samples = _samples(artifact, calibration)
    tool = quantizer.Quantizer(str(artifact.path), recipe.static_wi8_ai8())
    operators = qtyping.TFLOperationName
    if chosen.options.get("symmetric"):
        tool.update_quantization_recipe(".*", operators.ALL_SUPPORTED, _integers(symmetric=True))
    if chosen.options.get("operators") == "weighted":
        tool.update_quantization_recipe(".*", operators.ALL_SUPPORTED, algorithm_key="no_quantize")
        for word in _LAYERS:
            tool.update_quantization_recipe(".*", operators[_OPERATOR_NAMES.get(word, word)], _integers())
    # tables of embeddings have no static form: their weights are dequantised before the look-up
    tool.update_quantization_recipe(".*", operators.EMBEDDING_LOOKUP, _integers(weights_only=True))
    for layer in chosen.keep_float:
        tool.update_quantization_recipe(f"^{re.escape(layer)};?$", operators.ALL_SUPPORTED, algorithm_key="no_quantize")
    if float_ends:
        for end in (operators.INPUT, operators.OUTPUT):
            tool.update_quantization_recipe(".*", end, algorithm_key="no_quantize")
    update = qsv_utils.moving_average_update if chosen.options.get("moving_average") else qsv_utils.min_max_update
    found = ranges(artifact.path, tool, samples, update)
    if "clip" in chosen.options:
        found = _clipped(artifact.path, found, samples, chosen.options["clip"])
    tool.quantize(found, enable_progress_report=False).export_model(str(path), overwrite=True)


def _integers(*, symmetric: bool = False, weights_only: bool = False) -> OpQuantizationConfig:
    """8-bit weights per channel; with them 8-bit activations, or float ones."""
    from ai_edge_quantizer import qtyping

    weights = qtyping.TensorQuantizationConfig(
        num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
    )
    if weights_only:
        return qtyping.OpQuantizationConfig(
            weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
        )
    return qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(num_bits=8, symmetric=symmetric),
        weight_tensor_config=weights,
        compute_precision=qtyping.ComputePrecision.INTEGER,
    )


def _samples(artifact: Artifact, calibration: Mapping[str, Array]) -> _Rows:
    """Samples by the names of the file's signature, in the types it takes."""
    types = [spec.dtype for spec in artifact.signature.inputs]
    return _Rows(dict(zip(signature_inputs(artifact.path), calibration.values(), strict=True)), tuple(types))


@dataclass(frozen=True)
class _Rows:
    """Samples, one at a time: ai-edge-quantizer wants to know how many there are."""

    arrays: Mapping[str, Array]
    types: tuple[str, ...]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int) -> dict[str, Array]:
        pairs = zip(self.arrays.items(), self.types, strict=True)
        return {name: values[row : row + 1].astype(dtype, copy=False) for (name, values), dtype in pairs}


def _clipped(path: Path, found: dict[str, QSV], samples: _Rows, method: Method) -> dict[str, QSV]:
    """The ranges without their outliers, by a second pass over the samples."""
    extremes = {name: (float(np.min(r["min"])), float(np.max(r["max"]))) for name, r in found.items() if _is_one(r)}
    narrow = clipped_ranges(extremes, _tensors(path, samples), method)
    return {
        name: {"min": np.full_like(r["min"], narrow[name][0]), "max": np.full_like(r["max"], narrow[name][1])}
        if name in narrow
        else r
        for name, r in found.items()
    }


def _is_one(found: QSV) -> bool:
    """Whether a tensor has one range, not one for each channel."""
    return "min" in found and np.size(found["min"]) == 1


def _tensors(path: Path, samples: _Rows) -> Iterator[dict[str, Array]]:
    """Every float tensor of the file, sample by sample."""
    runtime = interpreter(
        "litert",
        "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
        model_path=str(path),
        num_threads=1,
        experimental_preserve_all_tensors=True,
    )
    run = runtime.get_signature_runner("serving_default")
    floats = [d for d in runtime.get_tensor_details() if d["dtype"] is np.float32 and d["name"]]
    for row in range(len(samples)):
        run(**samples[row])
        yield {d["name"]: value for d in floats if (value := _value(runtime, d["index"])) is not None}


def _value(runtime: Interpreter, index: int) -> Array | None:
    try:
        return runtime.get_tensor(index)
    except ValueError:  # a tensor of a delegate, or of no data
        return None


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
