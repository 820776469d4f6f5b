"""What the exporters that quantise by NNCF share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nncf import Dataset
    from nncf.quantization.range_estimator import RangeEstimatorParameters

    from edgedistill.types import Array


def dataset(calibration: Mapping[str, Array], *, named: bool = True) -> Dataset:
    """Calibration samples, one at a time: by name (ONNX), else in the order of the inputs (OpenVINO)."""
    import nncf

    count = len(next(iter(calibration.values())))

    def sample(row: int) -> dict[str, Array] | tuple[Array, ...] | Array:
        parts = {name: rows[row : row + 1] for name, rows in calibration.items()}
        if named:
            return parts
        return tuple(parts.values()) if len(parts) > 1 else next(iter(parts.values()))

    return nncf.Dataset(range(count), sample)


def extremes() -> RangeEstimatorParameters:
    """Ranges from the smallest to the largest value over all samples."""
    from nncf.quantization import range_estimator as ranges

    return ranges.RangeEstimatorParameters(
        min=ranges.StatisticsCollectorParameters(ranges.StatisticsType.MIN, ranges.AggregatorType.MIN),
        max=ranges.StatisticsCollectorParameters(ranges.StatisticsType.MAX, ranges.AggregatorType.MAX),
    )


def percentile() -> RangeEstimatorParameters:
    """Ranges without the outermost 0.01% of values of each sample, the widest over all samples."""
    from nncf.quantization import range_estimator as ranges

    return ranges.RangeEstimatorParameters(
        min=ranges.StatisticsCollectorParameters(
            ranges.StatisticsType.QUANTILE, ranges.AggregatorType.MIN, quantile_outlier_prob=1e-4
        ),
        max=ranges.StatisticsCollectorParameters(
            ranges.StatisticsType.QUANTILE, ranges.AggregatorType.MAX, quantile_outlier_prob=1e-4
        ),
    )
