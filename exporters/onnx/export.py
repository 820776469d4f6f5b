"""ONNX, for onnxruntime: one file, dynamic batch; int8 as QDQ with uint8 activations, int8 weights per channel.

uint8 activations because onnxruntime's x86 kernels for int8 by int8 are several times slower.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.opening import supported
from edgedistill.types import Artifact, Precision

from .._shared import onnx_runtime
from .._shared.conversion import conversion
from .._shared.torch_to_onnx import example, torch_to_onnx
from .operators import refusals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.nn import Module

    from edgedistill.types import Array, Check, Signature

REQUIRES = ("onnx", "onnxruntime", "onnxscript")
TOOLS = ("torch", "onnx", "onnxruntime", "onnxscript")
OPENER = Path(onnx_runtime.__file__)
SUFFIX = ".onnx"
RUNNER = ("run_onnxruntime.py", Path(__file__).with_name("runner.py"))


def export(
    model: Module | Path,
    name: str,
    signature: Signature,
    out: Path,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,
) -> Artifact:
    """Torch -> ONNX (torch.onnx, dynamo); an ONNX file is checked, and copied into one file."""
    path = out / f"{name}-fp32.onnx"
    if isinstance(model, Path):
        with conversion(name, "onnx"):
            _copy(model, path)
    else:
        with conversion(name, "torch.onnx", model, example(signature, 2, examples)):
            torch_to_onnx(model, signature, path, examples, opset)
    return Artifact.of_files(path, model=name, fmt="onnx", precision=Precision.FP32, signature=signature)


def _copy(source: Path, path: Path) -> None:
    import onnx

    model = onnx.load(str(source))  # with the data that stands beside it
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def check_support(artifact: Artifact) -> list[Check]:
    """Open the file in onnxruntime, unless its operators or versions tell that it cannot."""
    return supported(artifact, OPENER, refusals)
