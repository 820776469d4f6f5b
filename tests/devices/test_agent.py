"""The device agent as a user's device runs it: a process of its own."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedistill.agent
from edgedistill.calling import arguments_of
from tests.helpers.calls import call, opener_of
from tests.helpers.tflite_files import write

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

AGENT = Path(edgedistill.agent.__file__)
ONNX = ("--opener", opener_of("onnxruntime"), "--runtime", "onnxruntime")
FIELDS = {
    "batch",
    "schema",
    "runtime",
    "runtime_version",
    "python",
    "numpy",
    "machine",
    "threads",
    "inputs",
    "outputs",
    "facts",
    "cores",
    "import_ms",
    "load_cold_ms",
    "load_warm_ms",
    "page_cache",
    "first_inference_ms",
    "memory_bytes",
}


def _run(*arguments: str | Path, agent: Path = AGENT, cwd: Path | None = None) -> tuple[int, str, str]:
    command = [sys.executable, str(agent), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def _document(*arguments: str | Path, agent: Path = AGENT, cwd: Path | None = None) -> dict[str, Any]:
    code, out, err = _run(*ONNX, *arguments, agent=agent, cwd=cwd)
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def _refusal(*arguments: str | Path) -> dict[str, str]:
    code, out, err = _run(*ONNX, *arguments)
    assert code == 3, err
    document = json.loads(out)
    assert document["schema"] == "edgedistill.agent/1"
    assert set(document["error"]) == {"code", "message"}
    error: dict[str, str] = document["error"]
    return error


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = relu(x) summed over the last axis; x is (batch, 2, 3)."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["positive"]),
            helper.make_node("ReduceSum", ["positive", "axes"], ["y"], keepdims=0),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [2])],
    )
    path = tmp_path_factory.mktemp("agent") / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32))
    return path


def test_the_document_says_what_ran_where_and_how_long_each_stage_took(model: Path) -> None:
    document = _document(model, "--threads", "2")
    assert set(document) == FIELDS
    assert (document["schema"], document["runtime"], document["threads"]) == ("edgedistill.agent/1", "onnxruntime", 2)
    assert document["inputs"] == [{"name": "x", "shape": [1, 2, 3], "dtype": "float32"}]
    assert document["outputs"] == [{"name": "y"}]
    assert document["facts"]["providers"] == ["CPUExecutionProvider"]
    assert document["numpy"] == np.__version__
    assert min(document[stage] for stage in FIELDS if stage.endswith("_ms")) > 0


@pytest.mark.parametrize(
    ("runtime", "file"), [("onnxruntime", "student-fp32.onnx"), ("openvino", "openvino/student-fp32.xml")]
)
def test_called_here_it_says_what_a_process_of_its_own_says(
    runtime: str,
    file: str,
    finished: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same code without a process in between: everything it can be asked for at once."""
    bundle = finished[0] / "bundle"
    rows = np.load(bundle / "example_inputs.npy")
    np.savez(tmp_path / "in.npz", image=rows)
    wanted = ["--queries", "5", "--warmup", "0.01", "--profile", "2", "--sustained", "0.001"]
    command = [bundle / "artifacts" / file, "--opener", opener_of(runtime), "--runtime", runtime, *wanted]
    arguments = [str(word) for word in (*command, "--inputs", tmp_path / "in.npz")]
    assert edgedistill.agent.main([*arguments, "--outputs", str(tmp_path / "here.npz")]) == 0
    here = json.loads(capsys.readouterr().out)
    code, out, _ = _run(*arguments, "--outputs", tmp_path / "there.npz")
    there = json.loads(out)
    assert (code, set(here)) == (0, set(there))
    assert len(here["latency_ns"]) >= 5
    operators = [{row["name"] for row in one["profile"]["operators"]} for one in (here, there)]
    assert operators[0] == operators[1]
    with np.load(tmp_path / "here.npz") as ours, np.load(tmp_path / "there.npz") as theirs:
        assert ours.files == theirs.files
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours.files)
    absent = [str(tmp_path / "absent"), *arguments[1:]]
    assert edgedistill.agent.main(absent) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "artifact_refused"


def test_memory_grows_from_stage_to_stage(model: Path) -> None:
    memory = _document(model)["memory_bytes"]
    assert set(memory) == {"baseline", "after_import", "after_load", "peak"}
    assert 0 < memory["baseline"] < memory["after_import"] <= memory["peak"]
    assert memory["after_load"] <= memory["peak"]


def test_latency_holds_at_least_as_many_samples_as_queries_were_asked(model: Path) -> None:
    document = _document(model, "--queries", "40", "--duration", "0", "--warmup", "0")
    assert len(document["latency_ns"]) >= 40
    assert min(document["latency_ns"]) > 0
    assert document["involuntary_switches"] >= 0


def test_latency_lasts_at_least_as_long_as_was_asked(model: Path) -> None:
    document = _document(model, "--queries", "1", "--duration", "0.3", "--warmup", "0")
    assert len(document["latency_ns"]) > 1


def test_no_latency_is_measured_unless_asked(model: Path) -> None:
    assert "latency_ns" not in _document(model)


@pytest.mark.parametrize("name", ["x", "renamed by a converter"])
def test_outputs_are_onnxruntimes_own(model: Path, tmp_path: Path, name: str) -> None:
    import onnxruntime as ort

    x = np.random.default_rng(1).normal(size=(7, 2, 3)).astype(np.float32)
    given: dict[str, Any] = {name: x}
    np.savez(tmp_path / "in.npz", **given)
    document = _document(model, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    assert document["samples"] == 7
    wanted = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    with np.load(tmp_path / "out.npz") as archive:
        assert archive.files == ["y"]
        assert archive["y"].dtype == np.float32
        np.testing.assert_allclose(archive["y"], np.asarray(wanted[0]), rtol=1e-6)


def test_without_inputs_it_runs_one_random_sample_the_same_every_time(model: Path, tmp_path: Path) -> None:
    found = []
    for name in ("a.npz", "b.npz"):
        assert _document(model, "--outputs", tmp_path / name)["samples"] == 1
        with np.load(tmp_path / name) as archive:
            found.append(archive["y"])
    assert found[0].shape == (1, 2)
    np.testing.assert_array_equal(*found)


def test_a_file_that_the_runtime_does_not_understand_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model at all")
    error = _refusal(tmp_path / "bad.onnx")
    assert error["code"] == "artifact_refused"
    assert "bad.onnx" in error["message"]


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "none.onnx")["code"] == "artifact_refused"


@pytest.mark.parametrize(
    "shape",
    [(4, 2, 4), (4, 5), (4,), (4, 3, 2), (0, 2, 3)],
    ids=["larger", "smaller", "scalars", "transposed", "no samples"],
)
def test_inputs_of_another_shape_are_refused(model: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros(shape, np.float32))
    error = _refusal(model, "--inputs", tmp_path / "in.npz")
    assert error["code"] == "inputs"
    assert "'x'" in error["message"]


def test_another_number_of_inputs_is_refused(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((1, 2, 3), np.float32), z=np.zeros((1, 2, 3), np.float32))
    error = _refusal(model, "--inputs", tmp_path / "in.npz")
    assert error["code"] == "inputs"
    assert "'z'" in error["message"]


def test_inputs_that_cannot_be_read_are_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.npz").write_bytes(b"no archive")
    assert _refusal(model, "--inputs", tmp_path / "in.npz")["code"] == "inputs"


def test_a_runtime_that_is_not_installed_is_named(model: Path, tmp_path: Path) -> None:
    home = Path(np.__file__).parent
    for folder in (home, home.with_name("numpy.libs")):
        if folder.exists():
            (tmp_path / folder.name).symlink_to(folder)
    done = subprocess.run(  # -S: without site-packages, but for numpy
        [sys.executable, "-S", str(AGENT), str(model), *map(str, ONNX)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "runtime_missing"
    assert "onnxruntime is not installed" in error["message"]


def test_an_unknown_runtime_is_a_usage_error_naming_the_known_ones(model: Path) -> None:
    code, out, err = _run(model, "--opener", opener_of("litert"), "--runtime", "abacus")
    assert (code, out) == (2, "")
    assert "--runtime: invalid choice: 'abacus' (choose from litert, tflite-runtime)" in err


@pytest.mark.parametrize("name", ["agent.py", "types.py", "statistics.py"])
def test_copied_alone_into_an_empty_folder_it_runs_under_any_name(
    model: Path, samples: Path, tmp_path: Path, name: str
) -> None:
    alone = tmp_path / "device"
    alone.mkdir()
    shutil.copy(AGENT, alone / name)
    shutil.copy(opener_of("onnxruntime"), alone / "opener")
    given = ("--inputs", samples, "--queries", "5", "--opener", "opener")
    document = _document(model, *given, agent=alone / name, cwd=alone)
    assert document["schema"] == "edgedistill.agent/1"
    assert {path.name for path in alone.iterdir()} == {name, "opener"}


def test_beside_modules_named_like_the_standard_librarys_it_runs(model: Path, samples: Path) -> None:
    assert all((AGENT.parent / shadow).exists() for shadow in ("types.py", "statistics"))
    document = _document(model, "--inputs", samples, agent=Path("agent.py"), cwd=AGENT.parent)
    assert document["runtime"] == "onnxruntime"


def test_it_loads_nothing_of_edgedistill(model: Path) -> None:
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['agent.py', {str(model)!r}, *{[*map(str, ONNX)]}]\n"
        "try:\n"
        f"    runpy.run_path({str(AGENT)!r}, run_name='__main__')\n"
        "finally:\n"
        "    print([name for name in sys.modules if name.startswith('edgedistill')], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["schema"] == "edgedistill.agent/1"
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_its_source_is_python_3_8_and_imports_only_the_standard_library_and_numpy() -> None:
    tree = ast.parse(AGENT.read_text(encoding="utf-8"), feature_version=(3, 8))
    nodes = list(ast.walk(tree))
    imported = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or ".").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported - sys.stdlib_module_names == {"numpy"}


def test_operators_are_timed_apart_and_cores_are_obeyed(model: Path) -> None:
    document = _document(model, "--queries", "5", "--profile", "20", "--affinity", "0")
    operators = document["profile"]["operators"]
    assert {row["type"] for row in operators} >= {"ReduceSum"}
    assert sum(row["share"] for row in operators) == pytest.approx(1.0)
    assert all(row["ms"] >= row["least_ms"] > 0 for row in operators)
    assert document["cores"] == [0]
    assert document["disturbance"]["wall_s"] > 0
    assert _refusal(model, "--affinity", "99999")["code"] == "affinity"
    assert _refusal(model, "--affinity", "first")["code"] == "affinity"


def test_kernels_are_as_asked_and_delegates_told_as_in_force(model: Path, tmp_path: Path) -> None:
    tensors = [((1, 3), np.float32, 0.0, 0, None)] * 2
    file = write(tmp_path / "double.tflite", tensors, ["ADD"], [([0, 0], 1)], [0, 1])
    told = []
    for options in ([], ["--reference-kernels"]):
        code, out, err = _run(file, "--opener", opener_of("litert"), "--runtime", "litert", *options)
        assert code == 0, err
        told.append(json.loads(out)["facts"]["in_force"])
    assert [one["delegate"] for one in told] == ["XNNPACK", "none"]
    assert [one["kernels"] for one in told] == ["optimised", "reference"]
    assert [one["operators"] for one in told] == [1, 1]
    assert _refusal(model, "--reference-kernels")["code"] == "kernels"


def test_warming_up_is_counted_and_the_page_cache_is_asked(model: Path) -> None:
    document = _document(model, "--queries", "3", "--warmup", "0")
    assert document["warmup"]["inferences"] == 1
    assert document["page_cache"].startswith(("dropped", "kept"))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no file system in memory")  # noqa: S108
def test_a_file_in_memory_is_never_said_to_be_read_from_disk(model: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        shutil.copy(model, folder)
        assert _document(Path(folder) / model.name)["page_cache"].startswith("kept")


def test_weights_that_lie_beside_are_forgotten_too(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_bytes(b"w")
    forgotten = []

    def forget(number: int, *_: int) -> None:
        forgotten.append(str(Path(f"/proc/self/fd/{number}").readlink()))

    def nothing_there(*_: object) -> None:
        raise BlockingIOError

    monkeypatch.setattr(os, "posix_fadvise", forget)
    monkeypatch.setattr(os, "preadv", nothing_there)
    here = call(model, "onnxruntime", companions=(tmp_path / "weights", tmp_path / "none"))
    _, *arguments = arguments_of(here, str)
    assert [arguments[n + 1] for n, word in enumerate(arguments) if word == "--companion"] == [
        str(tmp_path / "weights")
    ]
    edgedistill.agent._drop_page_cache([str(file) for file in here.files])
    assert forgotten == [str(model), str(tmp_path / "weights")]


def test_a_sustained_stream_is_summed_up_by_the_minute(model: Path) -> None:
    (minute,) = _document(model, "--sustained", "0.001")["minutes_ms"]
    assert minute["count"] > 1
    assert 0 < minute["min"] <= minute["p50"] <= minute["p90"] <= minute["p99"]
