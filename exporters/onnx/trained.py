"""ONNX with trained 8-bit ranges: QDQ, uint8 activations, int8 weights per channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.types import Array, Artifact, Precision

from .._shared.conversion import conversion
from .._shared.trained import trained_ends
from .quantization import prepared_copy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from edgedistill.types import TrainedRange


def quantize_trained(
    artifact: Artifact,
    trained: Sequence[TrainedRange],
    samples: Mapping[str, Array],
    out: Path,
    precision: Precision = Precision.INT8_QAT,
    *,
    float_ends: bool = False,
) -> Artifact:
    """Write an int8 copy of an fp32 file whose activations have the trained ranges.

    Tensors that were not trained (the inside of an operator that the converter took apart) get their extremes over
    the samples.

    Args:
        artifact: the fp32 file of the fine-tuned student.
        trained: its trained tensors, probed with the first of the samples.
        samples: input name -> calibration samples.
        out: folder.
        precision: what the file is called: INT8_STATIC where it stands in for a calibrated one.
        float_ends: whether inputs and outputs of a TFLite file are float.

    Raises:
        ModelError: onnxruntime's quantiser refuses the file.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
    from onnxruntime.quantization.registry import QDQRegistry

    del float_ends  # TFLite's
    path = out / f"{artifact.model}-{precision.short}.onnx"
    with conversion(artifact.id, "onnxruntime.quantization"), prepared_copy(artifact, out) as prepared:
        ends, count = _ends(onnx.load(str(prepared)), trained, samples)
        ranges: dict[str, TensorData | tuple[Array, ...]] = {
            name: (np.array(low, np.float32), np.array(high, np.float32)) for name, (low, high) in ends.items()
        }
        tool = QDQQuantizer(
            load_model_with_shape_infer(prepared),
            True,
            False,
            QuantType.QInt8,
            QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, ranges),
            [],
            [],
            list(QDQRegistry),
            {},
        )
        tool.quantize_model()
        tool.model.save_model_to_file(str(path))  # sorts the nodes
    return Artifact.of_files(
        path,
        model=artifact.model,
        fmt="onnx",
        precision=precision,
        signature=artifact.signature,
        producer={"parent": artifact.sha256, "scheme": "qat", "trained_ranges": count},
    )


def _ends(
    model: ModelProto, trained: Sequence[TrainedRange], samples: Mapping[str, Array]
) -> tuple[dict[str, tuple[float, float]], int]:
    """(low, high) of every float tensor, and how many of them were trained."""
    probes: dict[str, list[Array]] = {}
    ends: dict[str, tuple[float, float]] = {}
    for number, tensors in enumerate(_tensors(model, samples)):
        for name, value in tensors.items():
            low, high = ends.get(name, (0.0, 0.0))
            ends[name] = (min(low, float(value.min())), max(high, float(value.max())))
            if number < len(trained[0].probes):
                probes.setdefault(name, []).append(value)
    found = trained_ends(trained, probes)
    return ends | found, len(found)


def _tensors(model: ModelProto, samples: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Every float tensor of the file, sample by sample, unfused."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    given = {value.name for value in watched.graph.output}
    made = [name for node in watched.graph.node for name in node.output if name and name not in given]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    for number in range(len(next(iter(samples.values())))):
        feed = {name: rows[number : number + 1] for name, rows in samples.items()}
        values = {**feed, **dict(zip(names, session.run(names, feed), strict=True))}
        yield {
            name: value
            for name, value in values.items()
            if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.size
        }
