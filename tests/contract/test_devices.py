"""The contract suite: every device plug-in that is ready here."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedistill.contracts import SetsUp
from edgedistill.errors import ArtifactError, DeviceError, EdgeDistillError, PluginError, UsageError
from edgedistill.plugins import device_runtimes, find_plugin, list_devices, load_device, offers, plugin_names
from edgedistill.types import AgentCall, Source
from tests.helpers import boards
from tests.helpers.calls import call
from tests.helpers.tflite_files import write

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = {
    "cpu": "cpu",
    "arm": "arm:cortex-a53",
    "armv7": "armv7:cortex-a7",
    "micro": "micro:nucleo-l4r5zi",
    "ssh": "ssh:loopback",
    "sim": "sim:raspberry-pi-4b",
}
"""A device of each scheme that can be had without hardware of one's own."""
LIGHT = [EXAMPLES[scheme] for scheme in ("cpu", "micro", "ssh")]
"""Those that answer in a second; tests/devices/test_arm_guest.py asks the emulator the same."""
HARDWARE = {"adb"}
"""Schemes that stand for hardware alone; their own tests have a stand-in for it."""


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    return boards.doubling(tmp_path / "double.onnx")


@pytest.fixture(autouse=True)
def board(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ssh:loopback`, without a network: tests/devices/test_ssh.py has an sshd, which not every machine has."""
    folder = tmp_path_factory.mktemp("board")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{folder}/programs:{os.environ['PATH']}")
    boards.stand_in(folder).describe()


def job_for(device: str, onnx_file: Path) -> AgentCall:
    """A file that doubles three floats, in a runtime that the device has."""
    plugin: Any = load_device(ready(device))
    runtimes = plugin.TRAITS.runtimes or ("onnxruntime",)
    if "onnxruntime" in runtimes:
        return call(onnx_file, "onnxruntime")
    tensors = [((1, 3), np.float32, 0.0, 0, None)] * 2
    return call(write(onnx_file.with_suffix(".tflite"), tensors, ["ADD"], [([0, 0], 1)], [0, 1]), runtimes[0])


def ready(device: str) -> str:
    """The device, or a skipped test where what it takes is not set up."""
    plugin: Any = load_device("arm" if device.startswith("arm") else device)  # one emulator serves both schemes
    if offers(plugin, SetsUp) is not None and not plugin.status()["installed"]:
        pytest.skip("`edgedistill arm setup` was not run")
    return device


def test_every_scheme_is_examined() -> None:
    assert {find_plugin("devices", name).SCHEME for name in plugin_names("devices")} == set(EXAMPLES) | HARDWARE


@pytest.mark.parametrize("device", EXAMPLES.values())
def test_describes_itself_under_the_id_it_was_asked_for(device: str) -> None:
    info = load_device(device).describe(device)
    assert info.id == device
    assert info.cores > 0
    assert info.memory_bytes > 2**20 or emulated(device)
    assert load_device(device).describe(device) == info  # it is part of a stage's key


def emulated(device: str) -> bool:
    return load_device(device).TRAITS.source is Source.EMULATED


@pytest.mark.parametrize("device", EXAMPLES.values())
def test_computes_and_measures(device: str, doubling: Path, tmp_path: Path) -> None:
    plugin: Any = load_device(ready(device))
    if plugin.TRAITS.source is Source.PREDICTED:
        with pytest.raises(UsageError, match="nothing runs"):
            plugin.run(device, call(doubling, "onnxruntime"))
        return
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
def test_inputs_of_another_shape_are_a_usage_error(device: str, doubling: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((2, 4), np.float32))
    job = replace(job_for(device, doubling), inputs=tmp_path / "in.npz")
    with pytest.raises(UsageError, match=r"takes \[3\] a sample, the file holds \[4\]"):
        load_device(device).run(device, job)


@pytest.mark.parametrize("device", [EXAMPLES["cpu"], EXAMPLES["ssh"]])
def test_a_hang_is_a_device_error(device: str, doubling: Path) -> None:
    forever = call(doubling, "onnxruntime", min_queries=1, min_duration_s=1e6, timeout_s=2)
    with pytest.raises(DeviceError, match="did not finish"):
        load_device(device).run(device, forever)


@pytest.mark.parametrize("name", plugin_names("devices"))
def test_tells_what_users_may_name_without_touching_it(name: str) -> None:
    found = list_devices(find_plugin("devices", name))
    assert all(one.id.split(":")[0] == find_plugin("devices", name).SCHEME and one.name for one in found)
    assert bool(found) == (name != "adb")


@pytest.mark.parametrize("scheme", ["ssh", "adb"])
def test_a_board_that_nobody_described_is_told_with_those_that_are(scheme: str) -> None:
    for device in (scheme, f"{scheme}:", f"{scheme}:lopback"):
        with pytest.raises(EdgeDistillError) as caught:
            load_device(device).describe(device)
        assert caught.value.exit_code in (2, 3)
    if scheme == "ssh":
        assert "did you mean 'ssh:loopback'" in caught.value.expected


def test_runtimes_of_a_device_are_its_own_where_it_tells_them() -> None:
    assert device_runtimes("cpu") is None
    assert "onnxruntime" in (device_runtimes("ssh:loopback") or {})


def test_an_unknown_device_names_the_known_ones() -> None:
    with pytest.raises(PluginError, match="unknown device") as caught:
        load_device("cpx")
    assert "cpu" in caught.value.expected
