"""What TFLite will refuse of a model that is not converted yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._shared.foresee import cautiously, tried
from .._shared.torch_graph import captured, lacking, listed, shapeless
from .._shared.torch_to_onnx import example, require_torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch.fx import Node
    from torch.nn import Module

    from edgedistill.types import Array, Operator, Signature


_NO_TFLITE_KERNEL = "it becomes a sort or scatter of StableHLO, for which TFLite runtimes have no kernel"


_NO_ANY_SHAPE = "litert-torch lowers no shape that depends on values"


_TFLITE = {
    r"aten\.(sort|topk|msort|argsort)\.": _NO_TFLITE_KERNEL,
    r"aten\.(col2im|max_unpool2d)\.": _NO_TFLITE_KERNEL,
    r"aten\._fft_(c2c|c2r)\.": "litert-torch lowers no complex inputs",
    r"aten\.(linalg_inv|linalg_inv_ex)\.": "litert-torch fails on its decomposition",
    r"aten\.(bitwise_and|__and__)\.\w+ integers": "TFLite has bitwise operators on booleans alone",
    r"aten\.(nonzero|masked_select)\.": _NO_ANY_SHAPE,
    r"aten\.index\.\w+.* of any shape": _NO_ANY_SHAPE,
}


def foresee(
    model: Module | Path,
    signature: Signature,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,
) -> list[Operator]:
    """Operators of the model; refused is what litert-torch does not lower, or lowers to what no runtime computes.

    Raises:
        ModelError: torch.export cannot follow the model.
    """
    del opset  # ONNX's
    program = captured(require_torch(model, "TFLite", "tflite"), example(signature, 1, examples))
    from litert_torch import fx_infra
    from litert_torch.backend import lowerings

    def why(_: str, node: Node) -> str:
        return "" if lowerings.lookup(node.target) else "litert-torch has no lowering for it"

    def asked() -> list[Operator]:
        decomposed = fx_infra.safe_run_decompositions(program, fx_infra.decomp.pre_lower_decomp(), can_skip=False)
        if not lacking(decomposed, "tflite", why):
            return []
        from litert_torch._convert.core import _run_convert_passes as passed  # its own way, which replaces some

        first = fx_infra.safe_run_decompositions(program, fx_infra.decomp.pre_convert_decomp(), can_skip=False)
        decomposed = fx_infra.safe_run_decompositions(passed(first), fx_infra.decomp.pre_lower_decomp(), can_skip=False)
        return lacking(decomposed, "tflite", why)

    found = tried(program, "tflite", _TFLITE)
    return listed(program, [*found, *([] if found else cautiously(asked)), *shapeless(program, "tflite")])
