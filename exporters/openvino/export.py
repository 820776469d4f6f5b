"""OpenVINO IR (.xml and .bin): dynamic batch, fp32 weights kept as fp32; int8 by NNCF.

The way leads through ONNX, which keeps all axes but the batch static.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.opening import supported
from edgedistill.types import Artifact, Check, Precision, State, file_sha256

from .._shared.conversion import conversion
from .._shared.modules import name_after_modules
from .._shared.torch_to_onnx import example, torch_to_onnx
from .ir import save
from .operators import refusals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.nn import Module

    from edgedistill.types import Array, Signature

REQUIRES = ("openvino", "nncf", "onnx", "onnxscript")
TOOLS = ("torch", "onnx", "onnxscript", "openvino", "nncf")
OPENER = Path(__file__).with_name("runtime.py")
PRECISIONS = (
    Precision.FP32,
    Precision.INT8_STATIC,
    Precision.FP16,
    Precision.INT8_WEIGHTS,
    Precision.INT4_WEIGHTS,
)
SUFFIX = ".xml"
RUNNER = ("run_openvino.py", Path(__file__).with_name("runner.py"))


def export(
    model: Module | Path,
    name: str,
    signature: Signature,
    out: Path,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,
) -> Artifact:
    """Torch -> ONNX -> OpenVINO IR; or an ONNX file -> IR."""
    import openvino

    graph = model if isinstance(model, Path) else out / f".{name}.onnx"
    traced = (None, ()) if isinstance(model, Path) else (model, example(signature, 2, examples))
    with conversion(name, "openvino", *traced):
        if not isinstance(model, Path):
            torch_to_onnx(model, signature, graph, examples, opset)
            name_after_modules(graph)
        converted = openvino.convert_model(str(graph))
    if graph is not model:
        graph.unlink()
    return save(converted, out / f"{name}-fp32.xml", name, Precision.FP32, signature, {})


def check_support(artifact: Artifact) -> list[Check]:
    """Compile the file for the CPU plug-in, unless its operators tell that it cannot; its weights must be its own."""
    weights = artifact.path.with_suffix(".bin")
    text = artifact.path.read_bytes()
    if not weights.is_file() or (b"weights_sha256" in text and file_sha256(weights).encode() not in text):
        reason = f"{weights.name} is not the one that {artifact.path.name} was written with"
        return [Check(f"support:{artifact.id}:openvino", State.FAIL, reason)]
    return supported(artifact, OPENER, refusals)
