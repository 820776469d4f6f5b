"""Quantised OpenVINO IR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._common import conversion
from ._openvino_ir import save

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgedistill.types import Array, Artifact, Precision


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
    return save(quantized, path, artifact.model, precision, artifact.signature, {"parent": artifact.sha256})


def _extremes() -> Any:
    """Ranges from the smallest to the largest value over all samples."""
    from nncf.quantization import range_estimator as ranges

    return ranges.RangeEstimatorParameters(
        min=ranges.StatisticsCollectorParameters(ranges.StatisticsType.MIN, ranges.AggregatorType.MIN),
        max=ranges.StatisticsCollectorParameters(ranges.StatisticsType.MAX, ranges.AggregatorType.MAX),
    )
