"""Sizes that a file leaves open, batches that it fixes, outputs without a batch, and weights that lie beside it."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedistill.artifacts.identify import artifact_of, companions_of, described
from edgedistill.artifacts.running import call_for, compute_all, generated, subjects
from edgedistill.errors import DeviceError, UsageError
from edgedistill.events import QUIET
from edgedistill.measurement.measure import measure_files
from edgedistill.recipe.document import Benchmark
from tests.conftest import documents, edgedistill
from tests.helpers.predicting import module
from tests.helpers.tflite_files import write

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.documents.measurements import Timed

QUICK = Benchmark.model_validate({"rounds": 1, "min_queries": 3, "min_duration_s": 0.0, "warmup_s": 0.0})


def save(path: Path, nodes: list[Any], shape: list[Any], weights: dict[str, Any] | None = None) -> Path:
    """An ONNX file from `x` of that shape to `y`."""
    tensors = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def doubled(path: Path, shape: list[Any]) -> Path:
    """y = 2 x."""
    return save(path, [helper.make_node("Add", ["x", "x"], ["y"])], shape)


def measured(path: Path, inputs: Path | None = None) -> Timed:
    return measure_files([artifact_of(path)], None, QUICK, QUIET, None, inputs)[0]


def samples(path: Path, *shape: int) -> Path:
    np.savez(path, x=np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    return path


def outputs(path: Path, inputs: Path, folder: Path) -> Any:
    found = compute_all(subjects([artifact_of(path)])[0], inputs, folder / "out.npz")
    return found["y"]


def test_open_sizes_are_those_of_the_samples_and_never_made_up(tmp_path: Path) -> None:
    path = doubled(tmp_path / "open.onnx", ["batch", 3, "height", "width"])
    with pytest.raises(UsageError, match="no size along axis 2, 3") as told:
        measured(path)
    assert "--inputs" in told.value.fix
    found = measured(path, samples(tmp_path / "x.npz", 4, 3, 20, 24))
    assert found["inputs"] == [{"name": "x", "shape": [1, 3, 20, 24], "dtype": "float32"}]
    assert found["batch"] == 1
    with np.load(tmp_path / "x.npz") as archive:
        np.testing.assert_array_equal(outputs(path, tmp_path / "x.npz", tmp_path), 2 * archive["x"])


def test_openvino_takes_open_sizes_from_the_samples_too(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = openvino.convert_model(doubled(tmp_path / "open.onnx", ["batch", 3, "height"]))
    openvino.save_model(model, tmp_path / "open.xml", compress_to_fp16=False)
    with pytest.raises(UsageError, match="no size along axis 2"):
        measured(tmp_path / "open.xml")
    assert measured(tmp_path / "open.xml", samples(tmp_path / "x.npz", 2, 3, 7))["inputs"][0]["shape"] == [1, 3, 7]


@pytest.mark.parametrize("runtime", ["litert", "tflite-runtime"])
def test_tflite_takes_open_sizes_from_the_samples_too(runtime: str, tmp_path: Path) -> None:
    schema: Any = importlib.import_module("ai_edge_litert.schema_py_generated")

    closed = write(
        tmp_path / "closed.tflite", [((1, 5, 3), np.float32, 0.0, 0, None)] * 2, ["ADD"], [([0, 0], 1)], [0, 1]
    )
    model = schema.ModelT.InitFromPackedBuf(closed.read_bytes(), 0)
    for tensor in model.subgraphs[0].tensors:
        tensor.shapeSignature = [1, -1, 3]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    (tmp_path / "open.tflite").write_bytes(builder.Output())
    found = [one for one in subjects([artifact_of(tmp_path / "open.tflite")]) if one.runtime == runtime]
    with np.load(samples(tmp_path / "x.npz", 2, 7, 3)) as archive:
        computed = compute_all(found[0], tmp_path / "x.npz", tmp_path / "out.npz")
        np.testing.assert_array_equal(next(iter(computed.values())), 2 * archive["x"])
    with pytest.raises(UsageError, match="no size along axis 1"):
        measured(tmp_path / "open.tflite")


def test_a_fixed_batch_is_told_and_takes_single_samples_or_whole_ones(tmp_path: Path) -> None:
    path = doubled(tmp_path / "four.onnx", [4, 6])
    assert measured(path)["batch"] == 4
    for shape in ((10, 6), (4, 6), (1, 6), (3, 4, 6)):  # the third fills its batch up; the last holds whole batches
        given = samples(tmp_path / "x.npz", *shape)
        with np.load(given) as archive:
            np.testing.assert_array_equal(outputs(path, given, tmp_path), 2 * archive["x"])
    assert measured(path, generated(artifact_of(path), tmp_path / "made.npz", 5))["batch"] == 4
    with pytest.raises(UsageError, match=r"takes \[6\] a sample, the file holds \[5\]"):
        measured(path, samples(tmp_path / "x.npz", 4, 5))


def test_a_vector_has_no_batch(tmp_path: Path) -> None:
    path = doubled(tmp_path / "vector.onnx", [8])
    given = generated(artifact_of(path), tmp_path / "made.npz", 3)
    with np.load(given) as archive:
        assert archive["x"].shape == (3, 8)
        np.testing.assert_array_equal(outputs(path, given, tmp_path), 2 * archive["x"])
    assert measured(path)["batch"] == 1


def test_outputs_that_depend_on_what_is_found_are_measured_but_not_compared(tmp_path: Path) -> None:
    path = save(
        tmp_path / "found.onnx",
        [helper.make_node("NonZero", ["x"], ["n"]), helper.make_node("Cast", ["n"], ["y"], to=1)],
        [1, 6],
    )
    assert measured(path)["latency_ms"]["count"] == 3
    np.savez(tmp_path / "x.npz", x=np.array([[1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0]], np.float32))
    with pytest.raises(DeviceError, match="shapes that depend on the sample"):
        outputs(path, tmp_path / "x.npz", tmp_path)


def test_weights_in_a_folder_below_an_onnx_file_are_its_own_too(tmp_path: Path) -> None:
    weight = np.ones((64, 64), np.float32)
    path = save(tmp_path / "apart.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], ["n", 64], {"w": weight})
    (tmp_path / "deep").mkdir()
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="deep/w", size_threshold=0)
    artifact = described(path)
    assert artifact.files == (path, tmp_path / "deep" / "w")
    assert call_for(subjects([artifact])[0]).files == artifact.files
    (tmp_path / "deep" / "w").unlink()
    assert companions_of(path) == ()  # the reader of its operators tells better


def test_weights_beside_an_onnx_file_are_its_own(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    path = save(tmp_path / "apart.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], ["n", 64], {"w": weight})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="apart.weights", size_threshold=0)
    assert companions_of(path) == (tmp_path / "apart.weights",)
    artifact = artifact_of(path)
    assert artifact.size_bytes == path.stat().st_size + weight.nbytes
    given = samples(tmp_path / "x.npz", 3, 64)
    with np.load(given) as archive:
        np.testing.assert_allclose(outputs(path, given, tmp_path), archive["x"] @ weight, rtol=1e-4, atol=1e-4)
    done = edgedistill("benchmark", path, "--preset", "quick", "--rounds", "1", "--json")
    assert documents(done)["measurements"][0]["artifact"] == "apart-onnx-fp32"
    converted, _ = module("graphs.read").runnable(artifact.files, "ncnn")  # pnnx gets both files, and keys by both
    (tmp_path / "apart.weights").write_bytes((2 * weight).tobytes())
    assert module("graphs.read").runnable(artifact.files, "ncnn")[0] != converted
    (tmp_path / "apart.weights").unlink()
    done = edgedistill("benchmark", path, "--json")
    assert done.returncode == 3
    assert "its weights stand in apart.weights, which is not beside it" in json.loads(done.stdout)["error"]["got"]
