"""ONNX files to ncnn: proved against onnxruntime, under their own names, at batch 1 or refused."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedistill.cli.main import main
from edgedistill.conversion.export import Settings, write
from edgedistill.conversion.loading import Options, load
from edgedistill.errors import EdgeDistillError, ModelError
from edgedistill.plugins import find_plugin, load_exporter
from tests.helpers.near import near

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgedistill.documents.artifacts import ProvenFile
    from edgedistill.types import Array

RNG = np.random.default_rng(0)


def model(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    outputs: Mapping[str, Sequence[Any]],
    constants: Mapping[str, Array],
    opset: int = 18,
) -> Path:
    """An ONNX file, node by node."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(made)
    onnx.save(made, path)
    return path


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def exported(path: Path, out: Path, given: dict[str, Array] | None = None) -> ProvenFile:
    """The fp32 file, proved over all samples."""
    (artifact,) = write(load(str(path), Options(), given), out, Settings(to=["ncnn"]))["artifacts"]
    return artifact


def convnet(path: Path) -> Path:
    """Of a dynamic batch, its tensors named as pnnx names its own, and its sizes computed in the graph."""
    nodes = [
        helper.make_node("Conv", ["1", "w", "b"], ["0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["0"], ["in0"]),
        helper.make_node("Shape", ["in0"], ["size"]),
        helper.make_node("Gather", ["size", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "first"], ["rows"]),
        helper.make_node("Concat", ["rows", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["in0", "flat"], ["3"]),
        helper.make_node("Gemm", ["3", "v"], ["2"], transB=1),
        helper.make_node("Sigmoid", ["2"], ["out1"]),
    ]
    constants = {
        "w": floats(8, 3, 3, 3),
        "b": floats(8),
        "v": floats(5, 512) / 8,
        "zero": np.array(0),
        "first": np.array([0]),
        "rest": np.array([-1]),
    }
    inputs = {"1": (TensorProto.FLOAT, ["n", 3, 8, 8])}
    return model(path, nodes, inputs, {"2": ["n", 5], "out1": ["n", 5]}, constants)


def test_names_of_the_onnx_file_are_kept(tmp_path: Path) -> None:
    given = {"1": floats(8, 3, 8, 8)}
    artifact = exported(convnet(tmp_path / "net.onnx"), tmp_path / "out", given)
    signature = artifact["signature"]
    assert [(s["name"], s["shape"]) for s in signature["inputs"]] == [("1", [1, 3, 8, 8])]
    assert [(s["name"], s["shape"]) for s in signature["outputs"]] == [("2", [1, 5]), ("out1", [1, 5])]
    assert [one["output"] for one in artifact["parity"]["outputs"]] == ["2", "out1"]
    assert near(artifact["parity"], 1e-5)


def test_a_text_encoder_takes_ids_and_a_mask(tmp_path: Path) -> None:
    """Words and their mean, as exporters of transformers write them: Gather, Cast, a sum along one axis."""
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["chosen"]),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Cast", ["column"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["chosen", "weight"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["weight", "tokens"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "v"], ["y"]),
    ]
    constants = {"words": floats(40, 16), "v": floats(16, 3), "last": np.array([-1]), "tokens": np.array([1])}
    inputs = {"ids": (TensorProto.INT64, ["n", 6]), "mask": (TensorProto.INT64, ["n", 6])}
    path = model(tmp_path / "text.onnx", nodes, inputs, {"y": ["n", 3]}, constants)
    given = {"ids": RNG.integers(0, 40, (9, 6)), "mask": np.tri(9, 6, dtype=np.int64)}
    artifact = exported(path, tmp_path / "out", given)
    assert near(artifact["parity"], 1e-5)
    assert [(s["name"], s["dtype"]) for s in artifact["signature"]["inputs"]] == [("ids", "int32"), ("mask", "float32")]


def test_ids_that_are_looked_up_twice(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["a", "ids"], ["x"]),
        helper.make_node("Gather", ["b", "ids"], ["y"]),
        helper.make_node("Add", ["x", "y"], ["z"]),
    ]
    inputs = {"ids": (TensorProto.INT64, ["n", 6])}
    path = model(tmp_path / "t.onnx", nodes, inputs, {"z": ["n", 6, 4]}, {"a": floats(9, 4), "b": floats(9, 4)})
    artifact = exported(path, tmp_path / "out", {"ids": RNG.integers(0, 9, (5, 6))})
    assert near(artifact["parity"], 1e-5)


def test_a_file_that_departs_from_onnxruntime_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prove = importlib.import_module(".prove", find_plugin("exporters", "ncnn").__package__)
    monkeypatch.setattr(prove, "AGREEMENT", 0.0)
    source = load(str(convnet(tmp_path / "net.onnx")), Options(), None)
    with pytest.raises(ModelError, match="departs from onnxruntime by"):
        load_exporter("ncnn").export(source.model, "net", source.signature, tmp_path, source.inputs)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_operators_that_ncnn_lacks_are_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["d"]), helper.make_node("Reshape", ["d", "shape"], ["y"])]
    inputs = {"x": (TensorProto.FLOAT, ["n", 4, 4])}
    path = model(tmp_path / "det.onnx", nodes, inputs, {"y": ["n", 1]}, {"shape": np.array([-1, 1])})
    with pytest.raises(ModelError, match="pnnx cannot convert det") as caught:
        exported(path, tmp_path / "out")
    assert "ncnn has no layer for Det" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_name_that_a_param_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["a b"], ["y"])]
    path = model(tmp_path / "n.onnx", nodes, {"a b": (TensorProto.FLOAT, ["n", 4])}, {"y": ["n", 4]}, {})
    with pytest.raises(ModelError, match="cannot be the name of a blob"):
        exported(path, tmp_path / "out")


def test_what_is_no_onnx_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    source = load(str(convnet(tmp_path / "net.onnx")), Options(), None)
    for path in (tmp_path / "bad.onnx", tmp_path / "missing.onnx"):
        with pytest.raises(EdgeDistillError) as caught:
            load_exporter("ncnn").export(path, "net", source.signature, tmp_path, source.inputs)
        assert "onnxruntime" in caught.value.message
        assert caught.value.fix


def test_the_command_line_takes_onnx_to_ncnn(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(convnet(tmp_path / "net.onnx")), "--to", "ncnn", "-o", str(tmp_path / "out"), "--json"]
    assert main(command) == 0
    (artifact,) = json.loads(capfd.readouterr().out)["artifacts"]
    assert artifact["parity"]["state"] == "pass"
    assert (tmp_path / "out" / artifact["path"]).with_suffix(".bin").is_file()
