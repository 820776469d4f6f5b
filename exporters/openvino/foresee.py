"""What OpenVINO will refuse of a model that is not converted yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .._shared.foresee import tried
from .._shared.foresee_onnx import foresee_onnx
from .._shared.torch_graph import captured, listed
from .._shared.torch_to_onnx import example

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.nn import Module

    from edgedistill.types import Array, Operator, Signature


_OPENVINO = {
    r"aten\.rand_like\.": "OpenVINO fails on ONNX's random operators",
    r"aten\.(linalg_det|det|_linalg_det|stft)\.": "OpenVINO has no translation of ONNX's operator",
}


def foresee(
    model: Module | Path, signature: Signature, examples: Mapping[str, Array] | None = None, opset: int | None = None
) -> list[Operator]:
    """Operators of the model; refused is what torch.onnx does not translate, or OpenVINO then does not read.

    Raises:
        ModelError: torch.export cannot follow the model.
    """
    if isinstance(model, Path):
        return []
    rows = foresee_onnx(model, signature, examples, opset, "openvino")
    program = captured(model, example(signature, 2, examples), strict_too=True)
    refused = [row for row in rows if row.refused]
    return listed(program, [*refused, *tried(program, "openvino", _OPENVINO)])
