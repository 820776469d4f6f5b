"""The contract suite: every device plug-in that is ready here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedistill.errors import ArtifactError, DeviceError, PluginError
from edgedistill.plugins import VERBS, find_plugin, load_device, plugin_names
from edgedistill.types import BenchmarkJob
from tests.tflite_files import write

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = {"cpu": "cpu", "arm": "arm:cortex-a53", "armv7": "armv7:cortex-a7", "micro": "micro:nucleo-l4r5zi"}
"""A device of each scheme that can be had without hardware of one's own."""
LIGHT = [EXAMPLES[scheme] for scheme in ("cpu", "micro")]
"""Those that answer in a second; test_arm_guest.py asks the emulator the same."""


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """An ONNX file that doubles its input."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3]) for n in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.save(model, tmp_path / "double.onnx")
    return tmp_path / "double.onnx"


def job_for(device: str, onnx_file: Path) -> BenchmarkJob:
    """A file that doubles three floats, in a runtime that the device has."""
    plugin: Any = load_device(ready(device))
    runtimes = getattr(plugin, "RUNTIMES", ("onnxruntime",))
    if "onnxruntime" in runtimes:
        return BenchmarkJob(onnx_file, "onnxruntime")
    tensors = [((1, 3), np.float32, 0.0, 0, None)] * 2
    return BenchmarkJob(write(onnx_file.with_suffix(".tflite"), tensors, ["ADD"], [([0, 0], 1)], [0, 1]), runtimes[0])


@pytest.mark.parametrize("name", plugin_names("devices"))
def test_has_every_verb(name: str) -> None:
    assert all(hasattr(find_plugin("devices", name), verb) for verb in VERBS["devices"])


def ready(device: str) -> str:
    """The device, or a skipped test where what it takes is not set up."""
    plugin: Any = load_device(device)
    if hasattr(plugin, "status") and not plugin.status()["installed"]:
        pytest.skip("`edgedistill arm setup` was not run")
    return device


def test_every_scheme_is_examined() -> None:
    assert {find_plugin("devices", name).SCHEME for name in plugin_names("devices")} == set(EXAMPLES)


@pytest.mark.parametrize("device", EXAMPLES.values())
def test_describes_itself_under_the_id_it_was_asked_for(device: str) -> None:
    info = load_device(device).describe(device)
    assert info.id == device
    assert info.cores > 0
    assert info.memory_bytes > 2**20 or emulated(device)
    assert load_device(device).describe(device) == info  # it is part of a stage's key


def emulated(device: str) -> bool:
    return getattr(load_device(device), "SOURCE", "measured") == "emulated"


@pytest.mark.parametrize("device", EXAMPLES.values())
def test_computes_and_measures(device: str, doubling: Path, tmp_path: Path) -> None:
    plain = job_for(device, doubling)
    given = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(tmp_path / "in.npz", x=given)
    job = replace(plain, inputs=tmp_path / "in.npz", outputs=tmp_path / "out.npz", min_queries=10)
    result = load_device(device).run(device, job)
    assert result.device == device
    assert ("latency_ns" not in result.document) if emulated(device) else len(result.document["latency_ns"]) >= 10
    with np.load(tmp_path / "out.npz") as archive:
        (output,) = archive.files
        assert output == result.document["outputs"][0]["name"]
        assert np.array_equal(archive[output], 2 * given)


@pytest.mark.parametrize("device", LIGHT)
def test_a_refused_file_is_an_artifact_error(device: str, doubling: Path) -> None:
    job = job_for(device, doubling)
    job.artifact.write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=f"{job.runtime} refuses"):
        load_device(device).run(device, job)


@pytest.mark.parametrize("device", LIGHT)
def test_inputs_of_another_shape_are_an_artifact_error(device: str, doubling: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((2, 4), np.float32))
    job = replace(job_for(device, doubling), inputs=tmp_path / "in.npz")
    with pytest.raises(ArtifactError, match=r"takes \[3\] a sample, the file holds \[4\]"):
        load_device(device).run(device, job)


def test_a_hang_is_a_device_error(doubling: Path) -> None:
    forever = BenchmarkJob(doubling, "onnxruntime", min_queries=1, min_duration_s=1e6, timeout_s=2)
    with pytest.raises(DeviceError, match="did not finish"):
        load_device("cpu").run("cpu", forever)


def test_an_unknown_device_names_the_known_ones() -> None:
    with pytest.raises(PluginError, match="unknown device") as caught:
        load_device("cpx")
    assert "cpu" in caught.value.expected
