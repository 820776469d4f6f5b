"""Layers of ncnn in 8-bit integers: which can be, and what they load then (ncnn: tools/quantize/ncnn2int8.cpp).

Convolutions and dense layers take activations by a calibrated scale. Matrix products, attention and recurrent layers
find the range of their activations at run time; embeddings only store integers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from .file import Layer, Tensor

if TYPE_CHECKING:
    from edgedistill.types import Array

LEVELS = 127
_LEAST = 1e-12


class Grain(Enum):
    """How many weights share a scale."""

    ROW = "those of an output"
    GROUP = "those of a group of channels"
    WHOLE = "all of a tensor"


@dataclass(frozen=True)
class Form:
    """A layer's integer form.

    Attributes:
        key: of the setting that says so.
        term: its value.
        grains: roles of the tensors that become integers.
        calibrated: whether it loads a scale of its input.
    """

    key: str
    term: str
    grains: dict[str, Grain]
    calibrated: bool = False


_ATTENTION = {"query": Grain.ROW, "key": Grain.ROW, "value": Grain.ROW, "out": Grain.WHOLE}
_RECURRENT = Form("8", "2", {"input": Grain.ROW, "state": Grain.ROW})
FORMS = {
    "Convolution": Form("8", "2", {"weight": Grain.ROW}, calibrated=True),
    "ConvolutionDepthWise": Form("8", "1", {"weight": Grain.GROUP}, calibrated=True),
    "InnerProduct": Form("8", "2", {"weight": Grain.ROW}, calibrated=True),
    "Gemm": Form("18", "2", {"A": Grain.ROW, "B": Grain.WHOLE}),
    "MultiHeadAttention": Form("18", "2", _ATTENTION),
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
    "Embed": Form("18", "2", {"weight": Grain.WHOLE}),
}


def quantizable(layer: Layer) -> bool:
    """Whether the layer has an integer form that ncnn computes rightly, and weights of its own.

    Grouped convolutions that are not depthwise stay float: with 8 channels in a group, ncnn 1.0.20261020 packs them and
    then reads and writes beside its tensors on x86.
    """
    if layer.kind == "ConvolutionDepthWise" and not _depthwise(layer):
        return False
    return layer.kind in FORMS and any(tensor.role in FORMS[layer.kind].grains for tensor in layer.tensors)


def _depthwise(layer: Layer) -> bool:
    """One channel in and one out for each group."""
    outputs, groups, width = (int(layer.settings[key]) for key in ("0", "7", "1"))
    height = int(layer.settings.get("11", width))
    return outputs == groups and int(layer.settings["6"]) == groups * width * height


def runs_on_integers(layer: Layer) -> bool:
    """Whether ncnn computes the layer's products with 8-bit integers on both sides."""
    form = FORMS.get(layer.kind)
    return form is not None and layer.kind != "Embed" and layer.settings.get(form.key) == form.term


def to_integers(layer: Layer, threshold: float) -> Layer:
    """The layer in its integer form; threshold: the magnitude of its input that becomes 127, where it is calibrated."""
    form, layer = FORMS[layer.kind], _straight(layer)
    tensors, scales = [], []
    for tensor in layer.tensors:
        if tensor.role not in form.grains:
            tensors.append(tensor)
            continue
        count = _scales(layer, tensor, form.grains[tensor.role])
        codes, found = rounded(tensor.values, count)
        tensors.append(Tensor(tensor.role, codes, tagged=True))
        scales.append(Tensor(f"{tensor.role} scale", found, tagged=False))
    if form.calibrated:
        scales.append(Tensor("input scale", _scale(np.array([threshold])), tagged=False))
    return replace(layer, settings={**layer.settings, form.key: form.term}, tensors=(*tensors, *scales))


def rounded(values: Array, count: int) -> tuple[Array, Array]:
    """int8 codes and float32 scales: the largest magnitude of each of `count` equal parts becomes 127."""
    parts = values.reshape(count, -1)
    scale = _scale(np.abs(parts).max(axis=1))
    codes = np.clip(np.rint(parts * scale[:, None]), -LEVELS, LEVELS).astype(np.int8)
    return codes.reshape(values.shape), scale


def _scale(largest: Array) -> Array:
    scale: Array = (LEVELS / np.maximum(largest, _LEAST)).astype(np.float32)
    return scale


def _scales(layer: Layer, tensor: Tensor, grain: Grain) -> int:
    if grain is Grain.GROUP:
        return int(layer.settings["7"])
    return tensor.values.size // tensor.values.shape[-1] if grain is Grain.ROW else 1


def _straight(layer: Layer) -> Layer:
    """A matrix product whose constants lie with the summed axis last, as integers must."""
    if layer.kind != "Gemm":
        return layer
    wanted = {"A": ("2", "0"), "B": ("3", "1")}
    settings, tensors = dict(layer.settings), []
    for tensor in layer.tensors:
        key, value = wanted.get(tensor.role, ("", ""))
        if key and settings.get(key, "0") != value:
            settings[key] = value
            tensors.append(replace(tensor, values=np.ascontiguousarray(tensor.values.T)))
        else:
            tensors.append(tensor)
    return replace(layer, settings=settings, tensors=tuple(tensors))
