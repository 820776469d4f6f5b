"""What each converter will not take, told from a captured program before anything is converted.

torch.onnx and litert-torch are asked through their own registries. What these do not tell, and what pnnx and OpenVINO
do not take, are lists that were tried one by one (tests/test_support_models.py tries them again). They hold what is
refused for certain: a model that converts is never refused here.
"""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import example, require_torch
from ._support_torch import captured, lacking, listed, shapeless, varying

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
_OPENVINO = {
    r"aten\.rand_like\.": "OpenVINO fails on ONNX's random operators",
    r"aten\.(linalg_det|det|_linalg_det|stft)\.": "OpenVINO has no translation of ONNX's operator",
}
_NO_LAYER = "ncnn has no layer for it"
_NCNN = {
    r"aten\.(fft_\w+|_fft_\w+|stft|complex|view_as_real|view_as_complex|polar)\.": _NO_LAYER,
    r"aten\.(nonzero|masked_select|_unique2|unique_\w+)\.": _NO_LAYER,
    r"aten\.(sort|topk|kthvalue|median|gather|scatter|scatter_add|bucketize|cumprod|logcumsumexp|cdist)\.": _NO_LAYER,
    r"aten\.(rand_like|randn_like|erfinv|lgamma)\.|aten\.(bitwise_and|__and__)\.\w+ integers": _NO_LAYER,
    r"aten\.(linalg_inv|linalg_inv_ex|linalg_svdvals|_linalg_svd|linalg_det|_linalg_det)\.": _NO_LAYER,
    r"aten\.max_unpool2d\.": _NO_LAYER,
    r"(?!aten\.|prims\.)": "a custom operator, which pnnx does not know",
}


def foresee_onnx(
    model: Any,
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
    from torch.onnx._internal.exporter import _core, _dispatching

    registry = _registry(opset)

    def why(name: str, node: Any) -> str:
        return (
            ""
            if name.startswith("onnx.") or _dispatching.dispatch(node, registry)[0]
            else "torch.onnx has no translation for it"
        )

    def asked() -> list[Operator]:
        prepared = _core._prepare_exported_program_for_export(program, registry=registry)  # noqa: SLF001 - what torch.onnx does itself
        return lacking(prepared, runtime, why)

    return listed(program, [*_cautiously(asked), *shapeless(program, runtime)])


def foresee_openvino(
    model: Any, signature: Signature, examples: Mapping[str, Array] | None = None, opset: int | None = None
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
    return listed(program, [*refused, *_tried(program, "openvino", _OPENVINO)])


def foresee_tflite(
    model: Any,
    signature: Signature,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,  # noqa: ARG001 - ONNX's
) -> list[Operator]:
    """Operators of the model; refused is what litert-torch does not lower, or lowers to what no runtime computes.

    Raises:
        ModelError: torch.export cannot follow the model.
    """
    require_torch(model, "TFLite", "tflite")
    program = captured(model, example(signature, 1, examples))
    from litert_torch import fx_infra
    from litert_torch._convert import core
    from litert_torch.backend import lowerings

    def why(_: str, node: Any) -> str:
        return "" if lowerings.lookup(node.target) else "litert-torch has no lowering for it"

    def asked() -> list[Operator]:
        decomposed = fx_infra.safe_run_decompositions(program, fx_infra.decomp.pre_lower_decomp(), can_skip=False)
        if not lacking(decomposed, "tflite", why):
            return []
        first = fx_infra.safe_run_decompositions(program, fx_infra.decomp.pre_convert_decomp(), can_skip=False)
        passed = core._run_convert_passes(first)  # noqa: SLF001 - what litert-torch does itself, which replaces some
        decomposed = fx_infra.safe_run_decompositions(passed, fx_infra.decomp.pre_lower_decomp(), can_skip=False)
        return lacking(decomposed, "tflite", why)

    tried = _tried(program, "tflite", _TFLITE)
    return listed(program, [*tried, *([] if tried else _cautiously(asked)), *shapeless(program, "tflite")])


def foresee_ncnn(
    model: Any,
    signature: Signature,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,  # noqa: ARG001 - ONNX's
) -> list[Operator]:
    """Operators of a torch model; refused is what reaches ncnn on none of the ways that the exporter tries.

    Raises:
        ModelError: torch.export cannot follow the model.
    """
    if isinstance(model, Path):
        return []  # pnnx reads it, and says itself what it cannot
    program = captured(model, example(signature, 1, examples))
    refused = _tried(program, "ncnn", _NCNN)
    return listed(program, [*refused, *shapeless(program, "ncnn")])


def _cautiously(ask: Callable[[], list[Operator]]) -> list[Operator]:
    """What a registry answers; nothing where it cannot be asked, as after a change of these private interfaces."""
    try:
        with redirect_stdout(StringIO()):  # litert-torch tells every step
            return ask()
    except Exception:  # noqa: BLE001 - what cannot be foreseen is told by the conversion itself
        return []


@cache
def _registry(opset: int | None) -> Any:
    """Translations that torch.onnx has for an opset."""
    from torch.onnx import _constants as public
    from torch.onnx._internal.exporter import _constants, _registration

    return _registration.ONNXRegistry.from_torchlib(max(opset or public.ONNX_DEFAULT_OPSET, _constants.TORCHLIB_OPSET))


def _tried(program: Any, runtime: str, table: Mapping[str, str]) -> list[Operator]:
    """Operators of a list, where they depend on the inputs; a pattern may also ask for types."""
    from_inputs = varying(program)

    def why(name: str, node: Any) -> str:
        if node not in from_inputs:
            return ""
        text = f"{name}{_types(node)}"
        return next((told for pattern, told in table.items() if re.match(pattern, text)), "")

    return lacking(program, runtime, why)


def _types(node: Any) -> str:
    """What the lists ask of a result: ` integers`, or ` of any shape` where it depends on values."""
    import torch

    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return ""
    whole = " integers" if not value.is_floating_point() and value.dtype is not torch.bool else ""
    return whole + ("" if all(isinstance(size, int) for size in value.shape) else " of any shape")
