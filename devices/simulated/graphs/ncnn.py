"""ncnn files as graphs: the shapes are seen by running the file once."""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, cast

import numpy as np

from ..._param import layers_of
from .graph import Graph, Layer, fused, unknown_layer
from .read import ncnn_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from ..._ncnn import Ncnn

_FREE = frozenset(
    {
        "Split",
        "Input",
        "Reshape",
        "Flatten",
        "Squeeze",
        "ExpandDims",
        "MemoryData",
        "Noop",
        "PriorBox",
        "Dropout",
        "Quantize",
        "Dequantize",
        "Requantize",
        "Cast",
    }
)
_MEMORY = frozenset(
    {
        "BinaryOp",
        "UnaryOp",
        "Eltwise",
        "Concat",
        "Pooling",
        "Swish",
        "ReLU",
        "Clip",
        "HardSwish",
        "HardSigmoid",
        "Sigmoid",
        "TanH",
        "PReLU",
        "ELU",
        "SELU",
        "GELU",
        "Mish",
        "ShuffleChannel",
        "Permute",
        "Slice",
        "Crop",
        "Softmax",
        "LayerNorm",
        "Reduction",
        "Padding",
        "Interp",
        "LRN",
        "DetectionOutput",
        "Yolov3DetectionOutput",
        "YoloDetectionOutput",
        "BatchNorm",
        "InstanceNorm",
        "GroupNorm",
        "RMSNorm",
        "Scale",
        "Bias",
        "Power",
        "Normalize",
        "PixelShuffle",
        "Reorg",
        "Tile",
        "Exp",
        "Log",
        "AbsVal",
        "Threshold",
        "CumulativeSum",
        "GLU",
        "Fold",
        "Unfold",
        "CopyTo",
        "Erf",
        "Celu",
    }
)
_CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise", "Convolution1D", "ConvolutionDepthWise1D")
_TRANSPOSED = (
    "Deconvolution",
    "DeconvolutionDepthWise",
    "Deconvolution1D",
    "DeconvolutionDepthWise1D",
    "Deconvolution3D",
    "DeconvolutionDepthWise3D",
)
_VOLUMES = ("Convolution3D", "ConvolutionDepthWise3D")
_PRODUCTS = ("InnerProduct", "Gemm", "MatMul", "MultiHeadAttention", "SDPA")
_INT8 = "8"


def read(path: Path) -> Graph:
    """Read a .param with its .bin beside it.

    Raises:
        ValueError: ncnn cannot read or run it.
    """
    ncnn = cast("Ncnn", import_module("ncnn"))
    lines = layers_of(path)
    shapes = _shapes(ncnn, path, [blob for line in lines for blob in line.above])
    unknown: dict[str, int] = {}
    layers = [
        _layer(line.kind, f"{line.kind} {number}", line.below, line.above, line.settings, shapes, unknown)
        for number, line in enumerate(lines)
    ]
    read_somewhere = {blob for line in lines for blob in line.below}
    outputs = tuple(blob for line in lines for blob in line.above if blob not in read_somewhere)
    inputs = tuple(line.above[0] for line in lines if line.kind == "Input")
    sizes = {blob: math.prod(shape) for blob, shape in shapes.items()}
    item = 1 if any(line.kind in _CONVOLUTIONS and line.settings.get(_INT8, "0") != "0" for line in lines) else 4
    return Graph(fused(layers, outputs), sizes, inputs, outputs, path.with_suffix(".bin").stat().st_size, item, unknown)


def _shapes(ncnn: Ncnn, path: Path, blobs: list[str]) -> dict[str, tuple[int, ...]]:
    net = ncnn.Net()
    net.opt.lightmode, net.opt.num_threads = False, 1  # keep what lies between
    if net.load_param(str(path)) != 0 or net.load_model(str(path.with_suffix(".bin"))) != 0:
        raise ValueError(f"ncnn cannot read {path.name}")
    found = {}
    with net.create_extractor() as extractor:
        for name, shape in ncnn_inputs(path).items():
            extractor.input(name, ncnn.Mat(np.zeros(shape[1:], np.float32)).clone())
        for blob in blobs:
            code, mat = extractor.extract(blob)
            if code != 0:
                raise ValueError(f"ncnn fails at {blob} with code {code}")
            found[blob] = tuple(np.array(mat).shape)
    return found


def _layer(
    kind: str,
    name: str,
    given: tuple[str, ...],
    outputs: tuple[str, ...],
    settings: dict[str, str],
    shapes: dict[str, tuple[int, ...]],
    unknown: dict[str, int],
) -> Layer:
    after = shapes[outputs[0]] if outputs else (1,)
    if kind in (*_CONVOLUTIONS, *_TRANSPOSED, *_VOLUMES):
        before, weights = shapes[given[0]], int(settings["6"])
        positions = math.prod((before if kind in _TRANSPOSED else after)[1:])
        if kind not in _CONVOLUTIONS:
            return unknown_layer(kind, name, given, outputs, unknown, macs=weights * positions, weights=weights)
        dilation = int(settings.get("2", "1"))
        kernel = (int(settings.get("11", settings["1"])), int(settings["1"]))
        groups = int(settings.get("7", "1")) if "DepthWise" in kind else 1
        channels = (before[0], after[0])
        return Layer(
            "conv",
            name,
            given,
            outputs,
            weights * positions,
            weights,
            kernel,
            int(settings.get("3", "1")),
            groups,
            channels,
            positions,
            max(dilation, int(settings.get("12", dilation))),
        )
    if kind in _PRODUCTS:
        return _product(kind, name, given, outputs, settings, shapes, after)
    if kind in _FREE or kind in _MEMORY:
        return Layer("free" if kind in _FREE or not given else "memory", name, given, outputs)
    return unknown_layer(kind, name, given, outputs, unknown)


def _product(
    kind: str,
    name: str,
    given: tuple[str, ...],
    outputs: tuple[str, ...],
    settings: dict[str, str],
    shapes: dict[str, tuple[int, ...]],
    after: tuple[int, ...],
) -> Layer:
    before = shapes[given[0]]
    if kind == "InnerProduct":
        weights = int(settings["2"])
        rows = max(1, math.prod(after) // int(settings["0"]))
        return Layer("dense" if rows == 1 else "matmul", name, given, outputs, weights * rows, weights)
    if kind == "MultiHeadAttention":
        weights, width = 4 * int(settings["2"]), int(settings["0"])
        tokens = math.prod(before) // width
        return Layer("matmul", name, given, outputs, weights * tokens + 2 * tokens * tokens * width, weights)
    if kind == "SDPA":
        return Layer("matmul", name, given, outputs, (math.prod(before) + math.prod(after)) * shapes[given[1]][-2])
    depth = before[-2] if kind == "Gemm" and settings.get("2", "0") == "1" else before[-1]
    weights = depth * after[-1] if kind == "Gemm" and len(given) == 1 else 0
    rows = math.prod(after[:-1])
    op = "dense" if rows == 1 and weights else "matmul"
    return Layer(op, name, given, outputs, math.prod(after) * depth, weights)
