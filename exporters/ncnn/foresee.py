"""What ncnn will refuse of a model that is not converted yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .._shared.foresee import tried
from .._shared.torch_graph import captured, listed, shapeless
from .._shared.torch_to_onnx import example

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.nn import Module

    from edgedistill.types import Array, Operator, Signature


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


def foresee(
    model: Module | Path,
    signature: Signature,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,
) -> list[Operator]:
    """Operators of a torch model; refused is what reaches ncnn on none of the ways that the exporter tries.

    Raises:
        ModelError: torch.export cannot follow the model.
    """
    del opset  # ONNX's
    if isinstance(model, Path):
        return []  # pnnx reads it, and says itself what it cannot
    program = captured(model, example(signature, 1, examples))
    refused = tried(program, "ncnn", _NCNN)
    return listed(program, [*refused, *shapeless(program, "ncnn")])
