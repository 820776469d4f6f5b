"""MACs of an ncnn file: every weight is used once for each output position."""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill import agent
from edgedistill.types import MacCount

if TYPE_CHECKING:
    from pathlib import Path

_CONVOLUTIONS = (
    "Convolution", "ConvolutionDepthWise", "Convolution1D", "ConvolutionDepthWise1D", "Convolution3D",
    "ConvolutionDepthWise3D",
)  # fmt: skip
_TRANSPOSED = ("Deconvolution", "DeconvolutionDepthWise", "Deconvolution1D", "Deconvolution3D")
_COUNTED = (*_CONVOLUTIONS, *_TRANSPOSED, "InnerProduct", "Gemm", "MatMul", "SDPA")
_INT8 = "8"  # the key of int8 scales in convolutions and dense layers


def count(path: Path) -> MacCount:
    """Run the file once on zeros, reading the shapes of what its weighted layers take and give."""
    ncnn: Any = import_module("ncnn")  # a compiled module that type checkers cannot read

    layers = agent._ncnn_layers(str(path))  # noqa: SLF001 - the reader of the format
    net = ncnn.Net()
    net.opt.lightmode = False  # keep what lies between
    net.opt.num_threads = 1
    if net.load_param(str(path)) != 0 or net.load_model(str(path.with_suffix(".bin"))) != 0:
        raise ValueError(f"ncnn cannot read {path}")
    total = integer = 0
    with net.create_extractor() as extractor:
        for spec in agent._ncnn_inputs(layers):  # noqa: SLF001 - as above
            extractor.input(spec["name"], ncnn.Mat(np.zeros(spec["shape"][1:], spec["dtype"])).clone())
        for kind, below, above, settings in layers:
            if kind not in _COUNTED:
                continue
            macs = _macs(kind, [_shape(extractor, blob) for blob in below], _shape(extractor, above[0]), settings)
            total += macs
            integer += macs if settings.get(_INT8, "0") != "0" and kind in (*_CONVOLUTIONS, "InnerProduct") else 0
    return MacCount(total, integer)


def _shape(extractor: Any, blob: str) -> tuple[int, ...]:
    code, mat = extractor.extract(blob)
    if code != 0:
        raise ValueError(f"ncnn fails at {blob} with code {code}")
    return tuple(np.array(mat).shape)


def _macs(kind: str, below: list[tuple[int, ...]], above: tuple[int, ...], settings: dict[str, str]) -> int:
    """Of one layer; below: shapes of its inputs, without a batch."""
    if kind in _CONVOLUTIONS:
        return int(settings["6"]) * math.prod(above[1:])
    if kind in _TRANSPOSED:
        return int(settings["6"]) * math.prod(below[0][1:])
    if kind == "InnerProduct":
        return int(settings["2"]) * math.prod(above) // int(settings["0"])
    if kind == "SDPA":  # queries by keys, weights by values
        return math.prod(below[0]) * below[1][-2] + math.prod(above) * below[1][-2]
    depth = below[0][-2] if kind == "Gemm" and settings.get("2", "0") == "1" and below else below[0][-1] if below else 0
    return math.prod(above) * depth
