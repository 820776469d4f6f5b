"""Real runs in the emulator: minutes, and an installation that `edgedistill arm setup` made (it is asked for here)."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistill.errors import DeviceError
from edgedistill.plugins import find_plugin, load_device
from tests.conftest import documents, edgedistill
from tests.helpers.calls import call

pytestmark = pytest.mark.slow


def part(name: str) -> Any:
    return importlib.import_module(f".{name}", find_plugin("devices", "emulated").__package__)


cores, guest, install, layouts = (part(f"_arm.{name}") for name in ("cores", "guest", "install", "layout"))


@pytest.fixture(scope="session")
def ready() -> None:
    done = edgedistill("arm", "setup", "--json")
    if done.returncode == 2 or "apt could not fetch" in done.stderr:
        pytest.skip(f"no emulator can be installed here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def files(finished: tuple[Path, dict[str, Any]]) -> dict[str, Path]:
    folder = finished[0] / "bundle" / "artifacts"
    return {path.suffix: path for path in folder.glob("*int8.*")}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is made anew, but where a test says otherwise."""
    monkeypatch.setenv("EDGEDISTILL_ARM_FRESH", "1")


def emulated(device: str, *paths: Path, code: int = 0) -> list[dict[str, Any]]:
    done = edgedistill("benchmark", *paths, "--device", device, "--json")
    assert done.returncode == code, done.stderr
    found = documents(done)["measurements"]
    assert isinstance(found, list)
    return found


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_the_core_decides_the_kernels_and_not_the_outputs(files: dict[str, Path], suffix: str) -> None:
    for core, has_dot in (("cortex-a53", False), ("cortex-a76", True), ("cortex-a55", True)):
        for found in emulated(f"arm:{core}", files[suffix]):
            assert found["source"] == "emulated"
            assert found["runs"]["state"] == found["parity"]["state"] == "pass"
            expected = has_dot and found["runtime"] != "tflite-runtime"  # its 2.14 took none, as it was seen
            assert (found["instructions"]["dot"] > 0) is expected is found["kernels"]["dot_product"]
            assert found["instructions"]["undecoded"] == 0
            assert found.get("parity", {}).get("max_lsb", 0) <= 1
            assert not {key for key in found if key.endswith("_ms") or key.startswith("latency")}
            memory = found["memory_bytes"]
            assert 10e6 < memory["baseline"] <= memory["after_import"] <= memory["after_load"] <= memory["peak"] < 400e6


@pytest.mark.usefixtures("ready")
def test_two_runs_count_the_same(files: dict[str, Path]) -> None:
    first, second = (emulated("arm:cortex-a53", files[".tflite"], files[".onnx"]) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert not one["reused"]
        assert not other["reused"]
        assert one["instructions"]["total"] == pytest.approx(other["instructions"]["total"], rel=1e-3)


@pytest.mark.usefixtures("ready")
def test_a_second_run_is_taken_from_the_first(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    emulated("arm:cortex-a72", files[".onnx"])
    monkeypatch.delenv("EDGEDISTILL_ARM_FRESH")
    (found,) = emulated("arm:cortex-a72", files[".onnx"])
    assert found["reused"]
    assert Path(found["blocks"]).is_file()


@pytest.mark.usefixtures("ready")
def test_armv7_runs_in_tflite_runtime_and_refuses_onnx(files: dict[str, Path]) -> None:
    (found,) = emulated("armv7:cortex-a7", files[".tflite"])
    assert found["runtime"] == "tflite-runtime"
    assert found["parity"]["max_lsb"] <= 1
    assert found["instructions"]["total"] > found["instructions"]["multiply_long"] > 0
    assert found["instructions"]["undecoded"] == 0
    assert found["instructions"]["dot"] == 0
    done = edgedistill("benchmark", files[".onnx"], "--device", "armv7:cortex-a7", "--json")
    assert done.returncode == 2
    assert "has no runtime" in documents(done)["error"]["message"]


@pytest.mark.usefixtures("ready")
def test_an_instruction_that_the_core_lacks_is_reported_as_such(files: dict[str, Path], tmp_path: Path) -> None:
    """Calls itself a Cortex-A76 and is a Cortex-A53: the kernels that the runtime takes are illegal on it."""
    known = cores.CORES["arm"]
    impostor = dataclasses.replace(known["cortex-a76"], name="impostor", model="cortex-a53")
    here = layouts.layout()
    where = layouts.Layout(tmp_path / "arm")
    where.root.mkdir(parents=True)
    for entry in here.root.iterdir():
        (where.root / entry.name).symlink_to(entry)
    (where.root / "cores").unlink()
    install.write_view(where.root / "cores" / "impostor", here.root / "sysroot" / "arm64", impostor.cpuinfo())
    target = cores.Target("arm", impostor, caches=False)
    job = call(files[".tflite"], "litert")
    with pytest.raises(DeviceError, match="needs an instruction that impostor lacks"):
        guest.run_guest(where, target, job, tmp_path / "out.npz")


@pytest.mark.usefixtures("ready")
def test_a_damaged_file_is_a_measurement_that_says_why(files: dict[str, Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    whole = files[".onnx"].read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Exception, match="refuses"):
        load_device("arm:cortex-a53").run("arm:cortex-a53", call(damaged, "onnxruntime"))


@pytest.mark.usefixtures("ready")
def test_the_cache_model_counts_more_misses_in_smaller_caches(files: dict[str, Path]) -> None:
    (found,) = emulated("arm:cortex-a53+caches", files[".onnx"])
    told = found["caches"]
    assert found["instructions"]["load_store"] <= told["accesses"] * 1.2
    assert told["accesses"] > told["l1_misses"] >= told["l2_misses"] >= 0
    assert told["l1"] == {"kib": 32, "ways": 4, "line_bytes": 64}


@pytest.mark.usefixtures("ready")
def test_parity_may_be_asked_of_a_core(files: dict[str, Path], tmp_path: Path) -> None:
    inputs = tmp_path / "x.npz"
    np.savez(inputs, image=np.random.default_rng(1).standard_normal((4, 1, 8, 8)).astype(np.float32))
    done = edgedistill(
        "parity", files[".onnx"], files[".onnx"], "--device", "arm:cortex-a53", "--inputs", inputs, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert documents(done)["parity"]["n"] == 4


@pytest.mark.usefixtures("ready")
def test_status_says_what_is_there() -> None:
    found = documents(edgedistill("arm", "status", "--json"))["arm"]
    assert found["installed"]
    assert {"onnxruntime", "ai-edge-litert", "tflite-runtime"} <= set(found["runtimes"]["arm64"])
    lock = json.loads((Path(found["path"]) / "lock.json").read_text(encoding="utf-8"))
    assert all(len(file["sha256"]) == 64 for file in lock["files"])
    assert os.access(shutil.which("cc") or "/", os.X_OK)
