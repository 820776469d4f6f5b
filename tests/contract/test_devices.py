"""The contract suite: every device plug-in that is ready here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedistill.errors import ArtifactError, DeviceError, PluginError, UsageError
from edgedistill.plugins import VERBS, find_plugin, load_device, plugin_names
from edgedistill.types import BenchmarkJob

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = {"cpu": "cpu", "arm": "arm:cortex-a53", "armv7": "armv7:cortex-a7", "sim": "sim:raspberry-pi-4b"}
"""A device of each scheme that can be had without hardware of one's own."""


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
    plugin: Any = load_device(ready(device))
    if plugin.__dict__.get("SOURCE") == "predicted":
        with pytest.raises(UsageError, match="nothing runs"):
            plugin.run(device, BenchmarkJob(doubling, "onnxruntime"))
        return
    if "onnxruntime" not in getattr(plugin, "RUNTIMES", ["onnxruntime"]):
        pytest.skip("its runtimes read no ONNX")
    given = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(tmp_path / "in.npz", x=given)
    job = BenchmarkJob(
        doubling, "onnxruntime", inputs=tmp_path / "in.npz", outputs=tmp_path / "out.npz", min_queries=10
    )
    result = plugin.run(device, job)
    assert result.device == device
    assert ("latency_ns" not in result.document) if emulated(device) else len(result.document["latency_ns"]) >= 10
    assert np.array_equal(np.load(tmp_path / "out.npz")["y"], 2 * given)


@pytest.mark.parametrize("device", [device for device in EXAMPLES.values() if device == "cpu"])
def test_a_refused_file_is_an_artifact_error_and_a_hang_a_device_error(
    device: str, doubling: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="onnxruntime refuses"):
        load_device(device).run(device, BenchmarkJob(tmp_path / "bad.onnx", "onnxruntime"))
    forever = BenchmarkJob(doubling, "onnxruntime", min_queries=1, min_duration_s=1e6, timeout_s=2)
    with pytest.raises(DeviceError, match="did not finish"):
        load_device(device).run(device, forever)


def test_an_unknown_device_names_the_known_ones() -> None:
    with pytest.raises(PluginError, match="unknown device") as caught:
        load_device("cpx")
    assert "cpu" in caught.value.expected
