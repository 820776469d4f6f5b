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
from ._support_torch import captured, lacking, listed, shapeless

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgedistill.types import Array, Operator, Signature

_NO_TFLITE_KERNEL = "it becomes a sort or scatter of StableHLO, for which TFLite runtimes have no kernel"
_TFLITE = {
    r"aten\.(sort|topk|msort|argsort)\.": _NO_TFLITE_KERNEL,
    r"aten\.(col2im|max_unpool2d)\.": _NO_TFLITE_KERNEL,
    r"aten\._fft_(c2c|c2r)\.": "litert-torch lowers no complex inputs",
    r"aten\.(linalg_inv|linalg_inv_ex)\.": "litert-torch fails on its decomposition",
    r"aten\.(nonzero|masked_select)\.": "litert-torch lowers no shape that depends on values",
}
_OPENVINO = {
    r"aten\.(rand|randn|rand_like|randn_like|bernoulli)\.": "OpenVINO does not translate ONNX's random operators",
    r"aten\.(linalg_det|det|_linalg_det|stft)\.": "OpenVINO has no translation of ONNX's operator",
}
_NO_LAYER = "ncnn has no layer for it"
_NCNN = {
    r"aten\.(fft_\w+|_fft_\w+|stft|complex|view_as_real|view_as_complex|polar)\.": _NO_LAYER,
    r"aten\.(nonzero|masked_select|_unique2|unique_\w+)\.": _NO_LAYER,
    r"aten\.(sort|topk|kthvalue|median|gather|scatter|scatter_add|bucketize|cumprod|logcumsumexp|cdist)\.": _NO_LAYER,
    r"aten\.(rand|rand_like|randn|randn_like|bernoulli|erfinv|lgamma|bitwise_and|__and__)\.": _NO_LAYER,
    r"aten\.(linalg_inv|linalg_inv_ex|linalg_svdvals|_linalg_svd|linalg_det|_linalg_det)\.": _NO_LAYER,
    r"aten\.(max_pool2d_with_indices|max_unpool2d)\.": _NO_LAYER,
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

    def why(_: str, node: Any) -> str:
        return "" if _dispatching.dispatch(node, registry)[0] else "torch.onnx has no translation for it"

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
    return listed(program, [*refused, *lacking(program, "openvino", lambda name, _: _tried(_OPENVINO, name))])


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

    tried = lacking(program, "tflite", _tflite)
    return listed(program, [*tried, *([] if tried else _cautiously(asked)), *shapeless(program, "tflite")])


def foresee_ncnn(
    model: Any,
    signature: Signature,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,  # noqa: ARG001 - ONNX's
) -> list[Operator]:
    """Operators of the model; refused is what reaches ncnn on none of the ways that the exporter tries.

    Raises:
        ModelError: torch.export cannot follow the model.
    """
    require_torch(model, "ncnn", "ncnn")
    program = captured(model, example(signature, 1, examples))
    refused = lacking(program, "ncnn", lambda name, _: _tried(_NCNN, name))
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


def _tflite(name: str, node: Any) -> str:
    """The list, and what depends on types: integers in `and`, masks as indices."""
    import torch

    value = node.meta.get("val")
    if re.match(r"aten\.(bitwise_and|bitwise_or|__and__|__or__)\.", name) and value.dtype is not torch.bool:
        return "TFLite has bitwise operators on booleans alone"
    if name == "aten.index.Tensor" and any(not isinstance(size, int) for size in value.shape):
        return _TFLITE[r"aten\.(nonzero|masked_select)\."]
    return _tried(_TFLITE, name)


def _tried(table: Mapping[str, str], name: str) -> str:
    return next((why for pattern, why in table.items() if re.match(pattern, name)), "")
