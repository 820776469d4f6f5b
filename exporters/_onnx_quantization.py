"""Quantised ONNX."""

from __future__ import annotations

from contextlib import chdir, contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgedistill.types import Array, Artifact, Precision, Scheme

from . import _onnx_precisions
from ._common import conversion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_CHUNK = 16
"""Samples between two updates of the ranges: onnxruntime's calibrators hold all tensors of those they are given."""
_SCHEMES = (
    Scheme("min-max", {"method": "MinMax", "symmetric": False}),
    Scheme("min-max-symmetric", {"method": "MinMax", "symmetric": True}),
    Scheme("percentile", {"method": "Percentile", "symmetric": False}),
    Scheme("entropy", {"method": "Entropy", "symmetric": False}),
)
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def schemes(precision: Precision) -> tuple[Scheme, ...]:
    """Ways to static int8, the default first: how ranges are found, and whether they are symmetric around zero."""
    return _SCHEMES if precision is Precision.INT8_STATIC else (Scheme(precision.short),)


def layers(artifact: Artifact) -> list[str]:
    """Layers with weights (and matrix products) that `Scheme.keep_float` may name, in the order of the graph."""
    import onnx

    with prepared_copy(artifact, artifact.path.parent) as path:
        return [node.name for node in onnx.load(str(path)).graph.node if node.op_type in _LAYERS]


def quantize(
    artifact: Artifact,
    precision: Precision,
    calibration: Mapping[str, Array],
    out: Path,
    scheme: Scheme | None = None,
) -> Artifact:
    """Static int8 by onnxruntime's quantiser: weights per channel, activations by the scheme; or another precision."""
    path = out / f"{artifact.model}-{precision.short}.onnx"
    chosen = scheme or schemes(precision)[0]
    with conversion(artifact.id, "onnxruntime.quantization"):
        if precision is Precision.INT8_STATIC:
            _static(artifact, calibration, path, chosen)
        else:
            _onnx_precisions.write(precision, artifact.path, path)
    return Artifact.of_files(
        path,
        model=artifact.model,
        fmt="onnx",
        precision=precision,
        signature=artifact.signature,
        producer={"parent": artifact.sha256, "scheme": chosen.name, "keep_float": list(chosen.keep_float)},
    )


def _static(artifact: Artifact, calibration: Mapping[str, Array], path: Path, chosen: Scheme) -> None:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    symmetric = bool(chosen.options["symmetric"])
    with prepared_copy(artifact, path.parent) as prepared:
        ranges = _ranges(prepared, chosen.options["method"], calibration)
        tool = QDQQuantizer(
            load_model_with_shape_infer(prepared), True, False, QuantType.QInt8,
            QuantType.QInt8 if symmetric else QuantType.QUInt8, ranges,
            [], list(chosen.keep_float), _operators(), {"ActivationSymmetric": symmetric},
        )  # fmt: skip
        tool.quantize_model()
        tool.model.save_model_to_file(str(path))  # sorts the nodes


@contextmanager
def prepared_copy(artifact: Artifact, folder: Path) -> Iterator[Path]:
    """A copy with shapes inferred and constants folded, as long as it is needed."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, path = str(artifact.path.resolve()), folder.resolve() / f".{artifact.model}-prepared.onnx"
    try:
        with TemporaryDirectory() as scratch, chdir(scratch):  # what it cannot infer is written where we stand
            try:
                quant_pre_process(source, str(path))
            except Exception:  # noqa: BLE001 - a bare Exception: sizes that are computed, as those of an upsampling
                quant_pre_process(source, str(path), skip_symbolic_shape=True)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _operators() -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _ranges(prepared: Path, method: str, calibration: Mapping[str, Array]) -> Any:
    """Ranges of all tensors, a chunk of samples at a time: memory does not grow with the samples."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no annotations
        def __init__(self, start: int, stop: int) -> None:
            self.samples: Iterator[dict[str, Array]] = (
                {name: rows[i : i + 1] for name, rows in calibration.items()} for i in range(start, stop)
            )

        def get_next(self) -> Any:  # a sample, or None at the end
            return next(self.samples, None)

    augmented = prepared.with_name(f"{prepared.stem}-augmented.onnx")
    count = len(next(iter(calibration.values())))
    try:
        calibrator = create_calibrator(
            prepared, _operators(), augmented_model_path=str(augmented), calibrate_method=CalibrationMethod[method]
        )
        for start in range(0, count, _CHUNK):
            calibrator.collect_data(Reader(start, min(start + _CHUNK, count)))
        return calibrator.compute_data()
    finally:
        augmented.unlink(missing_ok=True)
