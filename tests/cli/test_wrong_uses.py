"""Wrong uses of measuring: one clear message, exit code 2 or 3, no traceback."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedistill import agent as the_agent
from edgedistill.errors import DeviceError, UsageError
from edgedistill.plugins import load_device
from tests.conftest import documents, edgedistill
from tests.helpers.calls import call

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = 2x; x is (batch, 2, 3)."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2, 3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", ends[:1], ends[1:])
    path = tmp_path_factory.mktemp("wrong") / "double.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def wrong(code: int, *arguments: str | Path) -> dict[str, Any]:
    """The error of a command: all its parts, told once."""
    done = edgedistill("benchmark", *arguments, "--preset", "quick", "--json")
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    error = documents(done)["error"]
    assert all(error[part] for part in ("code", "message", "where", "expected", "got", "fix")), error
    return dict(error)


def test_an_unknown_device_names_the_nearest(model: Path) -> None:
    error = wrong(2, model, "--device", "arm7:cortex-a7")
    assert "did you mean 'armv7'" in error["expected"]


def test_an_unknown_core_names_the_nearest(model: Path) -> None:
    assert "'cortex-a53'" in wrong(2, model, "--device", "arm:cortex-a35x3")["expected"]
    assert "'cortex-a53' or 'cortex-a55'" in wrong(2, model, "--device", "arm:cortex-a5")["expected"]
    assert "unknown emulated core" in wrong(2, model, "--device", "armv7:cortex-a9")["message"]


def test_this_machine_has_no_parts(model: Path) -> None:
    assert "--affinity" in wrong(2, model, "--device", "cpu:0")["fix"]


@pytest.mark.parametrize("option", ["--plot", "--samples"])
def test_what_cannot_be_kept_is_told_before_anything_is_measured(option: str, model: Path, tmp_path: Path) -> None:
    error = wrong(2, model, option, tmp_path / "missing" / "file")
    assert error["where"] == option
    assert "mkdir -p" in error["fix"]
    error = wrong(2, model, option, tmp_path / "file", "--device", "arm:cortex-a53")
    assert "none is measured on arm:cortex-a53" in error["message"]
    assert not (tmp_path / "file").exists()


def test_a_model_that_takes_too_long_is_told_how_to_allow_more(model: Path) -> None:
    assert "--timeout" in wrong(3, model, "--timeout", "0.001")["fix"]


def test_a_model_for_another_runtime_is_told_before_anything_runs(model: Path) -> None:
    error = wrong(2, model, "--device", "armv7:cortex-a7")
    assert "has no runtime for double.onnx" in error["message"]
    assert "tflite-runtime" in error["expected"]


def test_inputs_of_the_wrong_shape_name_their_file(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((4, 3, 3), np.float32))
    error = wrong(2, model, "--inputs", tmp_path / "in.npz")
    assert "takes [2, 3] a sample, the file holds [3, 3]" in error["message"]
    assert error["where"].startswith(str(tmp_path / "in.npz"))


def test_cores_that_may_not_be_used_are_told(model: Path) -> None:
    error = wrong(2, model, "--affinity", "4095")
    assert "cannot run on the cores 4095" in error["message"]
    assert str(sorted(os.sched_getaffinity(0))) in error["expected"]
    assert wrong(2, model, "--affinity", "first")["where"] == "--affinity"


@pytest.mark.parametrize("refusal", [PermissionError(1, "Operation not permitted"), AttributeError("no such call")])
def test_a_system_that_lets_nobody_choose_cores_is_told(monkeypatch: pytest.MonkeyPatch, refusal: Exception) -> None:
    def refuse(*_: object) -> None:
        raise refusal

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pytest.raises(the_agent.Refused, match="cannot run on the cores 0: ") as caught:
        the_agent._pin("0")
    assert caught.value.args[0] == "affinity"
    assert the_agent._pin(None) == sorted(os.sched_getaffinity(0)), "who asks for nothing is not refused"


def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, agent: str) -> DeviceError:
    """What is said of a device whose agent does that."""
    (tmp_path / "agent.py").write_text(agent, encoding="utf-8")
    monkeypatch.setattr(the_agent, "__file__", str(tmp_path / "agent.py"))
    with pytest.raises(DeviceError) as caught:
        load_device("cpu").run("cpu", call(tmp_path / "model.onnx", "onnxruntime", timeout_s=20))
    assert caught.value.exit_code == 3
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    ("agent", "got"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9, nothing"),
        (
            "import sys; print('half a docu', end=''); sys.exit('the cable was pulled')",
            "exit code 1, the cable was pulled",
        ),
        ("print('[1, 2]')", "exit code 0, nothing"),
        ("pass", "exit code 0, nothing"),
    ],
    ids=["killed", "cut off", "another's words", "silent"],
)
def test_a_device_that_disappears_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, agent: str, got: str
) -> None:
    error = device(monkeypatch, tmp_path, agent)
    assert "the agent died on model.onnx" in error.message
    assert error.got == got


def test_the_affinity_of_a_job_is_a_usage_error(model: Path) -> None:
    with pytest.raises(UsageError, match="cannot run on the cores"):
        load_device("cpu").run("cpu", call(model, "onnxruntime", affinity=(4095,)))
