"""TFLite, for tflite-runtime 2.14 and LiteRT: batch 1, layout as in torch; int8 is full-integer, ends included."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.opening import supported
from edgedistill.types import Artifact, Precision, Signature, TensorSpec

from .._shared.conversion import conversion
from .._shared.torch_to_onnx import example, require_torch
from .operators import refusals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.types import Array, Check

REQUIRES = ("litert_torch", "ai_edge_quantizer", "ai_edge_litert", "tflite_runtime")
TOOLS = ("torch", "litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert")
REFERENCE = "litert"
"""The runtime that others must agree with: the one that is still made."""
OPENER = Path(__file__).with_name("runtime.py")
PRECISIONS = (
    Precision.FP32,
    Precision.INT8_STATIC,
    Precision.FP16,
    Precision.INT8_DYNAMIC,
    Precision.INT8_WEIGHTS,
    Precision.INT4_WEIGHTS,
)
SUFFIX = ".tflite"
RUNNER = ("run_tflite.py", Path(__file__).with_name("runner.py"))


def export(
    model: Any,
    name: str,
    signature: Signature,
    out: Path,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,  # noqa: ARG001 - ONNX's
) -> Artifact:
    """Torch -> TFLite (litert-torch), batch 1; 64-bit integers become 32-bit ones."""
    import litert_torch

    require_torch(model, "TFLite", "tflite")
    path = out / f"{name}-fp32.tflite"
    values = example(_fixed(signature), 1, examples)
    named = {spec.name: tensor for spec, tensor in zip(signature.inputs, values, strict=True)}
    with conversion(name, "litert-torch", model, values):
        litert_torch.convert(model, sample_kwargs=_by_parameter(model, named)).export(str(path))
    return Artifact.of_files(path, model=name, fmt="tflite", precision=Precision.FP32, signature=_fixed(signature))


def check_support(artifact: Artifact) -> list[Check]:
    """Open the file in both runtimes, unless its operators tell that one cannot compute it."""
    return supported(artifact, OPENER, refusals)


def _by_parameter(model: Any, named: dict[str, Any]) -> dict[str, Any]:
    """Examples under the names of forward's parameters, which litert-torch needs to name the inputs."""
    import inspect

    parameters = list(inspect.signature(model.forward).parameters)
    return dict(zip(parameters, named.values(), strict=False))


def _fixed(signature: Signature) -> Signature:
    """Batch 1 where it is free, no 64-bit integers."""
    return Signature(
        _batch_of_one(signature.inputs), _batch_of_one(signature.outputs), signature.normalization, signature.labels
    )


def _batch_of_one(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    narrow = {"int64": "int32"}

    def fixed(shape: tuple[int | str, ...]) -> tuple[int | str, ...]:
        return (1 if isinstance(shape[0], str) else shape[0], *shape[1:])

    return tuple(TensorSpec(s.name, fixed(s.shape), narrow.get(s.dtype, s.dtype), s.layout) for s in specs)
