"""Quantised ONNX."""

from __future__ import annotations

import importlib.util
from contextlib import chdir, contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgedistill.types import Array, Artifact, Precision, QuantizationScheme

from .._shared.conversion import conversion
from . import precisions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from onnxruntime.quantization.calibrate import TensorsData

_CHUNK = 16
"""Samples between two updates of the ranges: onnxruntime's calibrators hold all tensors of those they are given."""
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_WEIGHTED = (*_LAYERS, "Gather")
_NNCF = QuantizationScheme("nncf", {"tool": "nncf"}, placement="as nncf")
_SCHEMES = (
    QuantizationScheme("min-max", {"method": "MinMax"}, placement="all operators"),
    QuantizationScheme("percentile", {"method": "Percentile"}, placement="all operators"),
    QuantizationScheme("entropy", {"method": "Entropy"}, placement="all operators"),
    QuantizationScheme(
        "min-max-weighted", {"method": "MinMax", "operators": _WEIGHTED}, placement="weighted operators"
    ),
    QuantizationScheme(
        "min-max-per-tensor", {"method": "MinMax", "per_tensor": True}, placement="one scale per weight tensor"
    ),
    QuantizationScheme(
        "min-max-extended",
        {"method": "MinMax", "graph": "extended", "operators": _WEIGHTED},
        placement="weighted operators of the extended graph",
    ),
    QuantizationScheme("min-max-symmetric", {"method": "MinMax", "symmetric": True}, placement="int8 by int8"),
)


def schemes(precision: Precision) -> tuple[QuantizationScheme, ...]:
    """Ways to static int8, the default first.

    They differ in how ranges are found, whether these are symmetric around zero (int8 by int8, which ARM is fast at),
    whether operators without weights are quantised too, how far the graph is optimised before, and in the tool: NNCF
    places roundings otherwise.
    """
    if precision is not Precision.INT8_STATIC:
        return (QuantizationScheme(precision.short),)
    return (*_SCHEMES, _NNCF) if importlib.util.find_spec("nncf") else _SCHEMES


def layers(artifact: Artifact) -> list[str]:
    """Layers with weights (and matrix products) that a scheme may keep in float, in the order of the graph."""
    import onnx

    with prepared_copy(artifact, artifact.path.parent) as path:
        return [node.name for node in onnx.load(str(path)).graph.node if node.op_type in _LAYERS]


def quantize(
    artifact: Artifact,
    precision: Precision,
    calibration: Mapping[str, Array],
    out: Path,
    scheme: QuantizationScheme | None = None,
) -> Artifact:
    """Static int8 by onnxruntime's quantiser: weights per channel, activations by the scheme; or another precision."""
    path = out / f"{artifact.model}-{precision.short}.onnx"
    chosen = scheme or schemes(precision)[0]
    with conversion(artifact.id, str(chosen.options.get("tool", "onnxruntime.quantization"))):
        if chosen.options.get("tool") == "nncf":
            _by_nncf(artifact, calibration, path, chosen)
        elif precision is Precision.INT8_STATIC:
            _static(artifact, calibration, path, chosen)
        else:
            precisions.write(precision, artifact.path, path)
    return Artifact.of_files(
        path,
        model=artifact.model,
        fmt="onnx",
        precision=precision,
        signature=artifact.signature,
        producer={"parent": artifact.sha256, "scheme": chosen.name, "keep_float": list(chosen.keep_float)},
    )


def _static(artifact: Artifact, calibration: Mapping[str, Array], path: Path, chosen: QuantizationScheme) -> None:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    symmetric = bool(chosen.options.get("symmetric"))
    operators = list(chosen.options.get("operators", _operators()))
    per_channel = not chosen.options.get("per_tensor")
    with prepared_copy(artifact, path.parent) as prepared:
        if chosen.options.get("graph") == "extended":
            _extend(prepared)
        ranges = _ranges(prepared, chosen.options["method"], calibration)
        tool = QDQQuantizer(
            load_model_with_shape_infer(prepared),
            per_channel,
            False,
            QuantType.QInt8,
            QuantType.QInt8 if symmetric else QuantType.QUInt8,
            ranges,
            [],
            list(chosen.keep_float),
            operators,
            {"ActivationSymmetric": symmetric},
        )
        tool.quantize_model()
        tool.model.save_model_to_file(str(path))  # sorts the nodes


def _by_nncf(artifact: Artifact, calibration: Mapping[str, Array], path: Path, chosen: QuantizationScheme) -> None:
    """NNCF's placement, ranges from the extremes of all samples, no correction of biases."""
    import nncf
    import onnx

    from .._shared.nncf import dataset, extremes

    with prepared_copy(artifact, path.parent) as prepared:
        quantized = nncf.quantize(
            onnx.load(str(prepared)),
            dataset(calibration),
            subset_size=len(next(iter(calibration.values()))),
            ignored_scope=nncf.IgnoredScope(names=list(chosen.keep_float), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=extremes(), disable_bias_correction=True
            ),
        )
    path.write_bytes(quantized.SerializeToString(deterministic=True))


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


_KEPT_APART = ["ConvActivationFusion", "ConvAddActivationFusion", "GemmActivationFusion", "MatMulAddFusion"]
"""Fusions whose operators have no integer form."""


def _extend(path: Path) -> None:
    """Optimise a prepared graph at onnxruntime's extended level: several operators become one, which stays float."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    content = path.read_bytes()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], disabled_optimizers=_KEPT_APART)


def _operators() -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _ranges(prepared: Path, method: str, calibration: Mapping[str, Array]) -> TensorsData:
    """Ranges of all tensors, a chunk of samples at a time: memory does not grow with the samples."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no annotations
        def __init__(self, start: int, stop: int) -> None:
            self.samples: Iterator[dict[str, Array]] = (
                {name: rows[i : i + 1] for name, rows in calibration.items()} for i in range(start, stop)
            )

        def get_next(self) -> Any:  # a sample, or None at the end, which the base does not tell of
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
