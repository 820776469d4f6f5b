"""Generated inputs are such as a model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgedistill.artifacts.identify import artifact_of
from edgedistill.artifacts.running import generated

if TYPE_CHECKING:
    from pathlib import Path


def test_ids_are_generated_for_integer_inputs_and_normal_values_for_others(tmp_path: Path) -> None:
    """A table of two rows: any other number would lie outside it."""
    ends = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 5]),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 3]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5, 3]),
    ]
    table = helper.make_tensor("table", TensorProto.FLOAT, [2, 3], range(6))
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"]), helper.make_node("Add", ["rows", "x"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:2], ends[2:], [table]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "lookup.onnx")
    with np.load(generated(artifact_of(tmp_path / "lookup.onnx"), tmp_path / "in.npz", 40)) as archive:
        assert archive["ids"].dtype == np.int64
        assert set(np.unique(archive["ids"])) == {0, 1}
        assert archive["x"].shape == (40, 5, 3)
        assert abs(archive["x"].std() - 1) < 0.1
