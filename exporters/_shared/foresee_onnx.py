"""What ONNX will refuse of a model that is not converted yet; OpenVINO goes by way of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .foresee import cautiously
from .torch_graph import captured, lacking, listed, shapeless
from .torch_to_onnx import example

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import Node
    from torch.nn import Module
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    from edgedistill.types import Array, Operator, Signature


def foresee_onnx(
    model: Module | Path,
    signature: Signature,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,
    runtime: str = "onnx",
) -> list[Operator]:
    """Operators of the model; refused are those for which torch.onnx has neither a translation nor a decomposition.

    Raises:
        ModelError: torch.export cannot follow the model.
    """
    if isinstance(model, Path):
        return []  # an ONNX file already: its own inventory tells
    program = captured(model, example(signature, 2, examples), strict_too=True)
    from torch.onnx._internal.exporter import _dispatching

    registry = _registry(opset)

    def why(name: str, node: Node) -> str:
        return (
            ""
            if name.startswith("onnx.") or _dispatching.dispatch(node, registry)[0]
            else "torch.onnx has no translation for it"
        )

    def asked() -> list[Operator]:
        from torch.onnx._internal.exporter._core import _prepare_exported_program_for_export as prepared  # its own way

        return lacking(prepared(program, registry=registry), runtime, why)

    return listed(program, [*cautiously(asked), *shapeless(program, runtime)])


@cache
def _registry(opset: int | None) -> ONNXRegistry:
    """Translations that torch.onnx has for an opset."""
    from torch.onnx import _constants as public
    from torch.onnx._internal.exporter import _constants, _registration

    return _registration.ONNXRegistry.from_torchlib(max(opset or public.ONNX_DEFAULT_OPSET, _constants.TORCHLIB_OPSET))
