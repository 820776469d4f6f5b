"""From ONNX files to files that pnnx reads: batch 1, constants computed, rewritten."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .._shared import onnx_runtime
from .._shared.conversion import conversion
from .onnx_rewrite import plain, two_axes
from .prove import computed
from .routes import Origin, samples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from edgedistill.types import Array, Signature


def of_onnx(model: Path, name: str, signature: Signature, examples: Mapping[str, Array] | None) -> Origin:
    """An ONNX file: as it is, with its constant parts computed by onnxruntime, and rewritten.

    Raises:
        ModelError: it is no ONNX model, or onnxruntime does not run it.
    """
    inputs = samples(signature, examples)
    with tempfile.TemporaryDirectory() as folder:
        expected = computed(model, "onnxruntime", Path(onnx_runtime.__file__), inputs, Path(folder))
    with conversion(name, "onnx"):
        fixed = _fixed(model, inputs, expected)
    routes = {
        "onnx": lambda folder: _saved(fixed, folder),
        "folded onnx": lambda folder: _folded(_saved(fixed, folder)),
        "rewritten onnx": lambda folder: _rewritten(_folded(_saved(fixed, folder))),
    }
    return Origin(inputs, expected, routes, "onnxruntime")


def _fixed(source: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> ModelProto:
    """The model with inputs and outputs of one sample's shapes."""
    import onnx

    model = onnx.load(str(source))  # with the data that stands beside it
    arrays = {**inputs, **outputs}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in arrays:
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for size in (1, *arrays[value.name].shape[1:]):
                shape.dim.add().dim_value = size
    del model.graph.value_info[:]  # inferred for another batch
    return model


def _saved(model: ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _folded(path: Path) -> Path:
    """Sizes and other constants computed, by onnxruntime's basic optimisations."""
    import onnxruntime

    folded = path.with_name("folded.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
    )
    return folded.replace(path)


def _rewritten(path: Path) -> Path:
    import onnx

    model = onnx.load(str(path))
    plain(model.graph)
    two_axes(model.graph)
    return _saved(model, path.parent)
