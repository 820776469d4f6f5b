"""What the tests of predictions share: modules of the shelf, and small files."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedistill.plugins import find_plugin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def module(name: str) -> Any:
    """A module of the devices' shelf, as the plug-in sees it."""
    return importlib.import_module(f"._predict_{name}", find_plugin("devices", "simulated").__package__)


def save(path: Path, nodes: list[Any], weights: Mapping[str, tuple[int, ...]], shape: tuple[Any, ...]) -> Path:
    """An ONNX file with the input `x` of that shape and the output `y`; weights are random."""
    rng = np.random.default_rng(0)
    tensors = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], tensors,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def convolutions(path: Path, width: int, groups: int = 1, size: int = 56) -> Path:
    """Stem, two 3x3 (grouped, perhaps), one 1x1, a global average, a dense layer."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1], group=groups),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w1b"], ["e"], pads=[1, 1, 1, 1], group=groups),
        node("Conv", ["e", "w2"], ["f"]),
        node("GlobalAveragePool", ["f"], ["g"]),
        node("Flatten", ["g"], ["h"]),
        node("Gemm", ["h", "w3"], ["y"], transB=1),
    ]
    weights = {
        "w0": (width, 3, 3, 3), "w1": (width, width // groups, 3, 3), "w1b": (width, width // groups, 3, 3),
        "w2": (width, width, 1, 1), "w3": (10, width),
    }  # fmt: skip
    return save(path, nodes, weights, ("batch", 3, size, size))


def transformer(path: Path, tokens: int = 64, width: int = 128) -> Path:
    """One attention and one dense block over tokens."""
    node = helper.make_node
    nodes = [
        *(node("MatMul", ["x", f"w{n}"], [n]) for n in "qkv"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["o"]),
        node("MatMul", ["o", "w1"], ["m"]),
        node("MatMul", ["m", "w2"], ["y"]),
    ]
    weights = {**{f"w{n}": (width, width) for n in "qkv"}, "w1": (width, 4 * width), "w2": (4 * width, width)}
    return save(path, nodes, weights, (1, tokens, width))
