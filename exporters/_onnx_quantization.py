"""Quantised ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgedistill.types import Array, Artifact, Precision

from ._common import conversion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def quantize(artifact: Artifact, precision: Precision, calibration: Mapping[str, Array], out: Path) -> Artifact:
    """Static int8 by onnxruntime's quantiser: min-max ranges of the calibration samples."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no annotations
        def __init__(self) -> None:
            self.samples: Iterator[dict[str, Array]] = (
                {name: rows[i : i + 1] for name, rows in calibration.items()}
                for i in range(len(next(iter(calibration.values()))))
            )

        def get_next(self) -> Any:  # a sample, or None at the end
            return next(self.samples, None)

    path = out / f"{artifact.model}-{precision.short}.onnx"
    prepared = out / f".{artifact.model}-prepared.onnx"
    with conversion(artifact.id, "onnxruntime.quantization"):
        quant_pre_process(str(artifact.path), str(prepared))
        quantize_static(
            str(prepared),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    prepared.unlink()
    return Artifact.of_files(
        path,
        model=artifact.model,
        fmt="onnx",
        precision=precision,
        signature=artifact.signature,
        producer={"parent": artifact.sha256},
    )
