"""Memory figures: 100 MB of weights are seen, a few bytes are not, and processes agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedistill.plugins import load_benchmark, load_device
from tests.helpers.calls import call
from tests.helpers.tflite_files import write

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Json

WIDE = 5000
WEIGHT_BYTES = 4 * WIDE * WIDE
"""100 MB."""
PROCESSES = 4


def product(folder: Path, runtime: str, width: int) -> Path:
    """y = x times random weights of width x width, in the runtime's format."""
    weights = np.random.default_rng(0).standard_normal((width, width), np.float32)
    if runtime == "litert":
        content = [None, weights, np.zeros(width, np.float32), None]
        shapes = [(1, width), (width, width), (width,), (1, width)]
        tensors = [(shape, np.float32, 0.0, 0, values) for shape, values in zip(shapes, content, strict=True)]
        return write(folder / "product.tflite", tensors, ["FULLY_CONNECTED"], [([0, 1, 2], 3)], [0, 3])
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, width]) for n in "xy"]
    held = numpy_helper.from_array(weights, "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [held])
    path = folder / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    if runtime == "onnxruntime":
        return path
    import openvino

    openvino.save_model(openvino.convert_model(path), folder / "product.xml", compress_to_fp16=False)
    return folder / "product.xml"


def memory(file: Path, runtime: str) -> Json:
    result = load_device("cpu").run("cpu", call(file, runtime, min_queries=5))
    return dict(load_benchmark("memory").measure([result])["memory_bytes"])


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert", "openvino"])
def test_weights_of_100_mb_are_seen_and_processes_agree(runtime: str, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    small = memory(product(tmp_path / "small", runtime, 8), runtime)
    large = product(tmp_path, runtime, WIDE)
    found = [memory(large, runtime) for _ in range(PROCESSES)]
    for one in found:
        assert one["baseline"] < one["after_import"] < one["after_load"] <= one["peak"]
        assert 0.95 * WEIGHT_BYTES < one["peak"] - small["peak"] < 4 * WEIGHT_BYTES
    assert small["peak"] - small["after_import"] < 0.5 * WEIGHT_BYTES, "what is not there is not seen"
    peaks = [one["peak"] for one in found]
    assert max(peaks) / min(peaks) < 1.03
