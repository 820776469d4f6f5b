"""TFLite with trained 8-bit ranges: full-integer, ends included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.types import Array, Artifact, Precision

from .._shared.conversion import conversion
from .._shared.trained import trained_ends
from .calibration import described, ranges, signature_inputs
from .runtime import interpreter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

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

    Tensors that were not trained get their extremes over the samples.

    Args:
        artifact: the fp32 file of the fine-tuned student.
        trained: its trained tensors, probed with the first of the samples.
        samples: input name -> calibration samples.
        out: folder.
        precision: what the file is called: INT8_STATIC where it stands in for a calibrated one.
        float_ends: whether inputs and outputs of a TFLite file are float.

    Raises:
        ModelError: ai-edge-quantizer refuses the file.
    """
    from ai_edge_quantizer import qtyping, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    path = out / f"{artifact.model}-{precision.short}.tflite"
    names = signature_inputs(artifact.path)
    taken = {spec.name: spec.dtype for spec in artifact.signature.inputs}
    rows = [values.astype(taken.get(name, values.dtype), copy=False) for name, values in samples.items()]
    feeds = [{name: row[i : i + 1] for name, row in zip(names, rows, strict=True)} for i in range(len(rows[0]))]
    with conversion(artifact.id, "ai-edge-quantizer"):
        tool = quantizer.Quantizer(str(artifact.path), recipe.static_wi8_ai8())
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT) if float_ends else ():
            tool.update_quantization_recipe(".*", end, algorithm_key="no_quantize")
        known = ranges(artifact.path, tool, feeds, qsv_utils.min_max_update)
        found = trained_ends(trained, _tensors(artifact.path, feeds[: len(trained[0].probes)]))
        for name, ends in found.items():
            if name in known:
                known[name] = {
                    end: np.full_like(known[name][end], value) for end, value in zip(("min", "max"), ends, strict=True)
                }
        tool.quantize(known, enable_progress_report=False).export_model(str(path), overwrite=True)
    made = {"parent": artifact.sha256, "scheme": "qat", "trained_ranges": len(found.keys() & known.keys())}
    return described(path, artifact, precision, made, float_ends=float_ends)


def _tensors(path: Path, feeds: Sequence[Mapping[str, Array]]) -> dict[str, list[Array]]:
    """Every float tensor of the file for some samples; the plain kernels, which keep them all."""
    runtime = interpreter("litert", "BUILTIN_REF", model_path=str(path), experimental_preserve_all_tensors=True)
    runtime.allocate_tensors()
    found: dict[str, list[Array]] = {}
    for feed in feeds:
        runtime.get_signature_runner("serving_default")(**feed)
        for told in runtime.get_tensor_details():
            if told["dtype"] is not np.float32 or not told["name"]:
                continue
            try:
                value = np.array(runtime.get_tensor(told["index"]))
            except ValueError:  # a tensor that nothing computes
                continue
            if value.size:
                found.setdefault(told["name"], []).append(value)
    return {name: values for name, values in found.items() if len(values) == len(feeds)}
