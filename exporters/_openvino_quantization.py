"""Quantised OpenVINO IR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgedistill.types import Precision, Scheme

from ._common import conversion
from ._openvino_ir import save

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgedistill.types import Array, Artifact

_SCHEMES = (
    Scheme("extremes", {"extremes": True, "fast_bias_correction": False}),
    Scheme("mean-range", {"extremes": False, "fast_bias_correction": False}),
    Scheme("mean-range-bias-corrected", {"extremes": False, "fast_bias_correction": True}),
)
_LAYERS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")


def schemes(precision: Precision) -> tuple[Scheme, ...]:
    """Ways to static int8, the default first: extremes of all samples, NNCF's mean of their ranges, its defaults."""
    return _SCHEMES if precision is Precision.INT8_STATIC else (Scheme(precision.short),)


def layers(artifact: Artifact) -> list[str]:
    """Layers with weights (and matrix products) that `Scheme.keep_float` may name, in the order of the graph."""
    import openvino

    operations = openvino.Core().read_model(artifact.path).get_ordered_ops()
    return [op.get_friendly_name() for op in operations if op.get_type_name() in _LAYERS]


def quantize(
    artifact: Artifact,
    precision: Precision,
    calibration: Mapping[str, Array],
    out: Path,
    scheme: Scheme | None = None,
) -> Artifact:
    """Static int8 by NNCF on all calibration samples; integer weights alone by its weight compression.

    By default not NNCF's own: those average the ranges of samples, which clips the logits, and their fast bias
    correction cost a 438-parameter student a tenth of its answers (agreement with torch 0.895, against
    0.993 with these settings, n = 899).
    """
    import nncf
    import openvino

    chosen = scheme or schemes(precision)[0]
    path = out / f"{artifact.model}-{precision.short}.xml"
    made = {"parent": artifact.sha256, "scheme": chosen.name, "keep_float": list(chosen.keep_float)}
    if precision is not Precision.INT8_STATIC:
        with conversion(artifact.id, "nncf"):
            model = _smaller_weights(openvino.Core().read_model(artifact.path), precision)
        half = precision is Precision.FP16
        return save(model, path, artifact.model, precision, artifact.signature, made, half=half)
    estimator = _extremes() if chosen.options["extremes"] else None
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
            fast_bias_correction=chosen.options["fast_bias_correction"],
            ignored_scope=nncf.IgnoredScope(names=list(chosen.keep_float), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                **({"activations_range_estimator_params": estimator} if estimator else {}),
            ),
        )
    return save(quantized, path, artifact.model, precision, artifact.signature, made)


def _smaller_weights(model: Any, precision: Precision) -> Any:
    """Integer weights, a scale for each channel; nothing is done for half floats."""
    import nncf

    if precision is Precision.FP16:
        return model  # stored so by `save`
    if precision is Precision.INT8_WEIGHTS:
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=-1, all_layers=True)


def _extremes() -> Any:
    """Ranges from the smallest to the largest value over all samples."""
    from nncf.quantization import range_estimator as ranges

    return ranges.RangeEstimatorParameters(
        min=ranges.StatisticsCollectorParameters(ranges.StatisticsType.MIN, ranges.AggregatorType.MIN),
        max=ranges.StatisticsCollectorParameters(ranges.StatisticsType.MAX, ranges.AggregatorType.MAX),
    )
