"""The fastest of several files wins only where it certainly is; the device is told."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedistill.artifacts.identify import artifact_of
from edgedistill.conversion.fastest import race
from edgedistill.recipe.benchmark import Benchmark

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Artifact


def chain(path: Path, products: int) -> Artifact:
    """So many products of 256 x 256 in a row."""
    weights = numpy_helper.from_array(np.eye(256, dtype=np.float32), "w")
    names = ["x", *(f"t{i}" for i in range(1, products)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 256]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return artifact_of(path)


def test_one_file_is_not_measured(tmp_path: Path) -> None:
    base = chain(tmp_path / "a.onnx", 1)
    assert race(base, [base], Benchmark()).rounds == ((),)
    assert race(base, [], Benchmark()).winner == 0


@pytest.mark.slow
def test_a_third_of_the_work_wins_and_the_same_work_does_not(tmp_path: Path) -> None:
    base, same, small = (chain(tmp_path / f"{n}.onnx", n) for n in (60, 61, 20))
    found = race(base, [base, small], Benchmark())
    assert found.winner == 1
    assert found.device == "cpu"
    assert "another host may choose otherwise" in found.notes[-1]
    found = race(base, [base, same], Benchmark())
    assert (found.winner, found.notes) == (0, ())


def test_a_device_that_gives_no_times_leaves_it_to_this_host(tmp_path: Path) -> None:
    files = [chain(tmp_path / f"{n}.onnx", 2) for n in (1, 2)]
    found = race(files[0], files, Benchmark(device="arm:cortex-a53"))
    assert found.device == "cpu"
    assert "arm:cortex-a53 is emulated and gives no times" in found.notes[0]
