"""TFLite, for tflite-runtime 2.14 and LiteRT: batch 1, layout as in torch; int8 is full-integer, ends included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.opening import supported
from edgedistill.types import Artifact, Precision

from .._shared.conversion import conversion
from .._shared.signature import changed
from .._shared.torch_to_onnx import example, require_torch
from .operators import refusals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.nn import Module

    from edgedistill.types import Array, Check, Signature, TensorSpec

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
    model: Module | Path,
    name: str,
    signature: Signature,
    out: Path,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,
) -> Artifact:
    """Torch -> TFLite (litert-torch), batch 1; 64-bit integers become 32-bit ones."""
    import litert_torch

    del opset  # ONNX's
    module = require_torch(model, "TFLite", "tflite")
    path = out / f"{name}-fp32.tflite"
    fixed = changed(signature, _fixed, _fixed)
    values = example(fixed, 1, examples)
    named = {spec.name: tensor for spec, tensor in zip(signature.inputs, values, strict=True)}
    with conversion(name, "litert-torch", module, values):
        litert_torch.convert(module, sample_kwargs=_by_parameter(module, named)).export(str(path))
    return Artifact.of_files(path, model=name, fmt="tflite", precision=Precision.FP32, signature=fixed)


def check_support(artifact: Artifact) -> list[Check]:
    """Open the file in both runtimes, unless its operators tell that one cannot compute it."""
    return supported(artifact, OPENER, refusals)


def _by_parameter(module: Module, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Examples under the names of forward's parameters, which litert-torch needs to name the inputs."""
    import inspect

    parameters = list(inspect.signature(module.forward).parameters)
    return dict(zip(parameters, named.values(), strict=False))


def _fixed(spec: TensorSpec) -> TensorSpec:
    """Batch 1 where it is free, no 64-bit integers."""
    batch, *others = spec.shape
    shape = (1 if isinstance(batch, str) else batch, *others)
    return replace(spec, shape=shape, dtype="int32" if spec.dtype == "int64" else spec.dtype)
