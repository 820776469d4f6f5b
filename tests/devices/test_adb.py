"""Android devices: what the runtimes' own programs print, and a device that an `adb` on PATH stands for.

The stand-in speaks as adb does (devices, shell, push; states, messages, exit codes) and runs the device's commands in a
folder of this machine. No phone is needed, and none is shown to work.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistill.cli.main import main
from edgedistill.errors import DeviceError, EdgeDistillError, UsageError
from edgedistill.plugins import find_plugin, load_benchmark, load_device
from edgedistill.types import AgentAnswer, AgentCall
from tests.conftest import ROOT, documents, edgedistill
from tests.helpers.calls import call

find_plugin("devices", "adb")
TOOLS: Any = sys.modules["edgedistill.devices._remote.programs"]
ELF: Any = sys.modules["edgedistill.devices._remote.elf"]
GOLDEN = ROOT / "tests" / "golden" / "native"
SERIAL = "R58M12ABCDE"
ID = f"adb:{SERIAL}"


def golden(name: str) -> str:
    return (GOLDEN / name).read_text(encoding="utf-8")


# What the programs print.


def test_an_old_benchmark_model_tells_no_percentile_and_no_peak() -> None:
    assert TOOLS.read_tflite(golden("tflite_old.txt")) == {
        "latency_summary_ms": {
            "count": 50,
            "min": 32.687,
            "max": pytest.approx(33.239),
            "mean": pytest.approx(33.0718),
            "std": 0.129,
        },
        "init_ms": pytest.approx(3.501),
        "first_inference_ms": pytest.approx(156.677),
    }


def test_a_new_benchmark_model_tells_the_median_and_the_peak() -> None:
    found = TOOLS.read_tflite(golden("tflite_new.txt"))
    summary = found["latency_summary_ms"]
    assert (summary["count"], summary["p50"], summary["p95"]) == (125, 141.253, 187.533)  # of the timed runs
    assert {"p90", "p99"}.isdisjoint(summary)
    assert found["peak_bytes"] == 93.25 * 2**20


def test_a_benchmark_model_that_ran_once_tells_one_figure() -> None:
    timings = "Inference timings in us: Init: 1, First inference: 2, Warmup (avg): 3, Inference (avg): 4\n"
    text = f"count=1 curr=40000\n\n{timings}"
    assert TOOLS.read_tflite(text)["latency_summary_ms"] == {"count": 1, "min": 40.0, "max": 40.0, "mean": 40.0}


def test_onnxruntime_perf_test_tells_every_latency_in_its_result_file() -> None:
    found = TOOLS.read_onnxruntime(golden("onnxruntime.txt"), golden("onnxruntime.csv"))
    assert found["latency_ns"][:2] == [15983100, 16100000]
    assert len(found["latency_ns"]) == found["latency_summary_ms"]["count"] == 8
    assert sum(found["latency_ns"]) / 8e6 == pytest.approx(found["latency_summary_ms"]["mean"], rel=1e-3)
    assert found["latency_summary_ms"]["p50"] == pytest.approx(16.7086)
    assert (found["first_inference_ms"], found["peak_bytes"]) == (20, 35299328)
    without = TOOLS.read_onnxruntime(golden("onnxruntime.txt"))
    assert "latency_ns" not in without
    assert without["latency_summary_ms"] == found["latency_summary_ms"]
    older = golden("onnxruntime.txt").replace("Latency: ", "Latency is ").replace(" s\n", "sec\n")
    assert TOOLS.read_onnxruntime(older)["latency_summary_ms"] == found["latency_summary_ms"]


def test_benchncnn_tells_three_figures() -> None:
    assert TOOLS.read_ncnn(golden("ncnn.txt")) == {
        "latency_summary_ms": {"count": 64, "min": 2.11, "max": 3.42, "mean": 2.25}
    }


def test_benchmark_app_tells_its_version_and_the_median() -> None:
    found = TOOLS.read_openvino(golden("openvino.txt"))
    assert found == {
        "latency_summary_ms": {"count": 345, "min": 1.86, "p50": 2.92, "max": 11.74, "mean": 2.93},
        "init_ms": 182.0,
        "first_inference_ms": 7.17,
        "version": "2024.4.0-16579-c3152d32c9c-releases/2024/4",
    }
    micro = golden("openvino.txt").replace("2.92 ms", "2920.00 us")
    assert TOOLS.read_openvino(micro)["latency_summary_ms"]["p50"] == pytest.approx(2.92)


@pytest.mark.parametrize("tool", TOOLS.TOOLS, ids=lambda tool: tool.key)
@pytest.mark.parametrize("text", ["", "Segmentation fault\n", "count= min = max = Count: Average: avg"])
def test_an_output_without_figures_is_no_reading(tool: Any, text: str) -> None:
    with pytest.raises(ValueError, match="no figures"):
        tool.read(text, "")


def test_the_shape_for_benchncnn_is_width_height_channels(tmp_path: Path) -> None:
    (tmp_path / "m.param").write_text("7767517\n1 1\nInput in0 0 1 in0 0=24 1=16 2=3\n", encoding="ascii")
    assert TOOLS.ncnn_shape(tmp_path / "m.param") == "[24,16,3]"
    (tmp_path / "m.param").write_text("7767517\n1 1\nInput in0 0 1 in0\n", encoding="ascii")
    with pytest.raises(ValueError, match="in0"):
        TOOLS.ncnn_shape(tmp_path / "m.param")


def test_summaries_of_rounds_are_joined_without_inventing_any_figure() -> None:
    told = [
        {"count": 50, "min": 1.0, "max": 9.0, "mean": 2.0, "std": 1.0, "p50": 2.0},
        {"count": 150, "min": 2.0, "max": 4.0, "mean": 3.0, "std": 0.5},
    ]
    results = [AgentAnswer(ID, {"latency_summary_ms": one, "device_flags": ["told"]}) for one in told]
    found = load_benchmark("latency").measure(results)
    spread = (50 * (1 + 4) + 150 * (0.25 + 9)) / 200 - 2.75**2  # the variance of both rounds' samples together
    assert found["latency_ms"] == {
        "count": 200,
        "mean": 2.75,
        "min": 1.0,
        "max": 9.0,
        "std": pytest.approx(spread**0.5),
    }
    assert (found["valid"], found["flags"]) == (True, ["told"])
    assert "round_p50_ms" not in found
    few = load_benchmark("latency").measure(results[:1])
    assert not few["valid"]
    assert few["round_p50_ms"] == [2.0]
    assert load_benchmark("memory").measure(results) == {}
    assert load_benchmark("latency").measure([AgentAnswer("arm:x", {})]) == {}


# A device.

_ADB = """\
#!{python}
import json, os, pathlib, shutil, subprocess, sys
home = pathlib.Path(__file__).resolve().parent
state = json.loads((home / "state.json").read_text())
words = sys.argv[1:]
if words[0] == "devices":
    print("* daemon started successfully", file=sys.stderr)
    print("List of devices attached")
    for serial, how in state["devices"].items():
        print(serial + "\\t" + how)
    print()
    sys.exit(0)
serial, verb, rest = words[1], words[2], words[3:]
def leave(text):
    print(text, file=sys.stderr)
    sys.exit(1)
state["commands"] = state.get("commands", 0) + 1
(home / "state.json").write_text(json.dumps(state))
if serial not in state["devices"] or state["commands"] > state.get("unplugged_after", 10**9):
    leave("adb: device '" + serial + "' not found")
if verb == "push":
    with open(home / "pushed", "a") as log:
        log.write(pathlib.Path(rest[0]).name + "\\n")
    if os.path.getsize(rest[0]) > state.get("room", 10**9):
        why = "remote couldn't create file: No space left on device"
        leave("adb: error: failed to copy '" + rest[0] + "' to '" + rest[1] + "': " + why)
    shutil.copyfile(rest[0], rest[1])
    print(rest[0] + ": 1 file pushed, 0 skipped. 25.3 MB/s")
elif verb == "shell":
    path = str(home / "system") + ":" + os.environ["PATH"]
    sys.exit(subprocess.call(["/bin/sh", "-c", " ".join(rest)], env=dict(os.environ, PATH=path)))
"""
_GETPROP = """\
#!/bin/sh
echo '[ro.product.manufacturer]: [Samsung]'
echo '[ro.product.model]: [SM-A325F]'
echo '[ro.soc.model]: [MT6769]'
echo '[ro.product.cpu.abi]: [arm64-v8a]'
echo '[ro.product.cpu.abilist]: [arm64-v8a,armeabi-v7a,armeabi]'
echo '[ro.build.version.release]: [13]'
"""


class Phone:
    """What the stand-in for adb shows, and what devices.toml says of it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state: dict[str, Any] = {"devices": {SERIAL: "device", "emulator-5554": "offline"}}
        (home / "system").mkdir(parents=True)
        self.program("adb", _ADB.replace("{python}", sys.executable))
        self.program("system/getprop", _GETPROP)
        self.keys = {"workdir": str(home / "data")}
        self.show()

    def show(self, **changed: Any) -> None:
        self.state |= changed
        (self.home / "state.json").write_text(json.dumps(self.state), encoding="utf-8")

    def program(self, name: str, text: str) -> Path:
        path = self.home / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def tool(self, key: str, script: str) -> Path:
        """Name a program in devices.toml: a shell script."""
        path = self.program(f"{key}.sh", f"#!/bin/sh\n{script}\n")
        self.describe(**{key: str(path)})
        return path

    def describe(self, **keys: Any) -> None:
        self.keys |= keys
        lines = [f"{key} = {json.dumps(value)}" for key, value in self.keys.items()]
        Path("devices.toml").write_text(f"[adb.{SERIAL}]\n" + "\n".join(lines) + "\n", encoding="utf-8")

    def pushed(self) -> list[str]:
        log = self.home / "pushed"
        return log.read_text(encoding="utf-8").split() if log.exists() else []

    def left(self) -> list[Path]:
        return [*self.home.glob("data/run-*"), *self.home.glob("data/*/*.part")]


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("EDGEDISTILL_SSH_CONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'phone'}:/usr/bin:/bin")
    made = Phone(tmp_path / "phone")
    made.tool("tflite_benchmark", f"echo $@ > {made.home}/arguments; cat {GOLDEN}/tflite_new.txt")
    return made


@pytest.fixture
def job(tmp_path: Path) -> AgentCall:
    (tmp_path / "model.tflite").write_bytes(b"a model")
    return call(tmp_path / "model.tflite", "litert", min_queries=64, min_duration_s=0.5, timeout_s=60)


@pytest.fixture
def device(phone: Phone) -> Any:
    del phone
    return load_device(ID)


def failure(device: Any, job: AgentCall, kind: type[EdgeDistillError]) -> EdgeDistillError:
    with pytest.raises(kind) as caught:
        device.run(ID, job)
    error = caught.value
    assert error.where
    assert error.expected
    assert error.got
    assert error.fix
    return error


def test_describes_itself_by_its_properties(phone: Phone, device: Any) -> None:
    info = device.describe(ID)
    assert (info.id, info.name, info.machine) == (ID, "Samsung SM-A325F (MT6769)", "aarch64")
    assert info.cores > 0
    assert info.memory_bytes > 2**20
    assert device.describe(ID) == info
    assert [one.id for one in device.devices()] == [ID]
    assert list(device.runtimes(ID, {})) == ["litert"]
    del phone


def test_a_program_is_pushed_run_and_read_and_only_once_pushed(phone: Phone, device: Any, job: AgentCall) -> None:
    document = device.run(ID, job).document
    assert document["latency_summary_ms"]["p50"] == 141.253
    assert document["first_inference_ms"] == pytest.approx(235.158)
    assert document["memory_bytes"] == {"peak": 93.25 * 2**20}
    assert "latency_ns" not in document
    assert document["device_flags"] == ["tflite_benchmark does not tell: p90, p99, cold and warm load"]
    assert document["facts"]["board"]["ro.product.model"] == "SM-A325F"
    arguments = (phone.home / "arguments").read_text(encoding="utf-8").split()
    assert {"--num_threads=1", "--num_runs=64", "--min_secs=0.5"} < set(arguments)
    assert phone.pushed() == ["tflite_benchmark.sh", "model.tflite"]
    device.run(ID, job)
    assert len(phone.pushed()) == 2
    assert phone.left() == []


def test_every_single_latency_where_the_program_tells_it(phone: Phone, device: Any, tmp_path: Path) -> None:
    results = f"for last; do :; done; cp {GOLDEN}/onnxruntime.csv $last"
    phone.tool("onnxruntime_perf_test", f"{results}; cat {GOLDEN}/onnxruntime.txt")
    (tmp_path / "m.onnx").write_bytes(b"a model")
    job = call(tmp_path / "m.onnx", "onnxruntime", min_queries=8, affinity=(0,))
    document = device.run(ID, job).document
    assert len(document["latency_ns"]) == 8
    assert document["cores"] == [0]


def test_benchmark_by_the_command_line_tells_what_is_missing(
    phone: Phone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ov: Any = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    x = ops.parameter([1, 4], dtype=np.float32, name="x")
    ov.save_model(ov.Model([ops.relu(x)], [x]), tmp_path / "m.xml", compress_to_fp16=False)
    phone.tool("benchmark_app", f"cat {GOLDEN}/openvino.txt")
    done = edgedistill("benchmark", "m.xml", "--device", ID, "--rounds", "2", "--json")
    assert done.returncode == 0, done.stderr
    (measurement,) = documents(done)["measurements"]
    assert (measurement["device"], measurement["source"], measurement["valid"]) == (ID, "measured", True)
    assert measurement["latency_ms"] == {"count": 690, "min": 1.86, "p50": 2.92, "max": 11.74, "mean": 2.93}
    assert "benchmark_app does not tell: p90, p95, p99, std" in measurement["flags"][0]
    assert {"percentiles_ms", "load_cold_ms", "memory_bytes"}.isdisjoint(measurement)
    assert main(["benchmark", "m.xml", "--device", ID, "--rounds", "1"]) == 0
    assert "2.9200" in capsys.readouterr().out
    assert main(["benchmark", "m.xml", "--against", "m.xml", "--device", ID, "--rounds", "1"]) == 2
    assert "single latencies" in capsys.readouterr().err
    assert main(["parity", "m.xml", "m.xml", "--device", ID]) == 2
    assert "cannot give outputs" in capsys.readouterr().err


def test_a_recipe_is_refused_before_it_trains(phone: Phone, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del phone
    assert main(["recipe", "check", str(recipe), "--set", f"benchmark.device={ID}"]) == 2
    assert "benchmark.device" in capsys.readouterr().err


def test_no_adb(phone: Phone, device: Any, job: AgentCall) -> None:
    (phone.home / "adb").unlink()
    assert "no adb" in failure(device, job, UsageError).message


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (None, "is not attached"),
        ("unauthorized", "does not trust this machine"),
        ("offline", "is offline"),
        ("no permissions (missing udev rules? user is in the plugdev group)", "may not be opened"),
    ],
)
def test_a_device_that_is_not_ready(phone: Phone, device: Any, job: AgentCall, state: str | None, told: str) -> None:
    phone.show(devices={"emulator-5554": "device"} | ({SERIAL: state} if state else {}))
    error = failure(device, job, DeviceError)
    assert told in error.message
    assert "emulator-5554 (device)" in error.expected


def test_no_program_is_named(phone: Phone, device: Any, job: AgentCall, tmp_path: Path) -> None:
    (tmp_path / "devices.toml").unlink()
    error = failure(device, job, UsageError)
    assert "tflite_benchmark" in error.expected
    phone.describe(tflite_benchmark="nowhere/benchmark_model")
    assert f"adb.{SERIAL}.tflite_benchmark" in failure(device, job, UsageError).where


def test_a_program_for_another_processor(phone: Phone, device: Any, job: AgentCall) -> None:
    binary = phone.home / "benchmark_model"
    header = bytearray(b"\x7fELF\x02\x01\x01" + bytes(13))
    header[18:20] = (62).to_bytes(2, "little")
    binary.write_bytes(header)
    phone.describe(tflite_benchmark=str(binary))
    error = failure(device, job, UsageError)
    assert error.got == "x86_64"
    assert "aarch64" in error.expected
    header[18:20] = (183).to_bytes(2, "little")
    binary.write_bytes(header)
    assert ELF.machine_of(binary) == "aarch64"
    assert "failed" in failure(device, job, DeviceError).message  # it is let through, and cannot run here


def test_a_program_that_fails_or_lacks_a_library(phone: Phone, device: Any, job: AgentCall) -> None:
    phone.tool("tflite_benchmark", "echo 'ERROR: Failed to load model'; exit 3")
    error = failure(device, job, DeviceError)
    assert error.got == "exit code 3, ERROR: Failed to load model"
    phone.tool("tflite_benchmark", "kill -ILL $$")
    assert "signal 4" in failure(device, job, DeviceError).got
    missing = 'echo \'CANNOT LINK EXECUTABLE "./x": library "libfoo.so" not found: needed by main executable\'; exit 1'
    phone.tool("tflite_benchmark", missing)
    assert "libraries" in failure(device, job, UsageError).where
    phone.tool("tflite_benchmark", "echo nothing of use")
    assert "nothing that can be read" in failure(device, job, DeviceError).message
    assert phone.left() == []


def test_libraries_lie_beside_the_program(phone: Phone, device: Any, job: AgentCall) -> None:
    library = phone.program("libfoo.so", "")
    phone.describe(libraries=[str(library)])
    phone.tool("tflite_benchmark", f"ls $LD_LIBRARY_PATH/libfoo.so || exit 1; cat {GOLDEN}/tflite_new.txt")
    device.run(ID, job)


def test_cores_that_the_device_does_not_have(phone: Phone, device: Any, job: AgentCall) -> None:
    del phone
    from dataclasses import replace

    assert "affinity" in failure(device, replace(job, affinity=(63,)), UsageError).where


def test_a_program_that_hangs_is_stopped_on_the_device(phone: Phone, device: Any, job: AgentCall) -> None:
    from dataclasses import replace

    phone.tool("tflite_benchmark", f"echo $$ > {phone.home}/running; exec tail -f /dev/null")
    error = failure(device, replace(job, timeout_s=1.5), DeviceError)
    assert "did not finish" in error.message
    running = int((phone.home / "running").read_text(encoding="utf-8"))
    gone = Path(f"/proc/{running}/stat")
    assert not gone.exists() or gone.read_text(encoding="utf-8").split()[2] == "Z"
    assert phone.left() == []


def test_a_device_that_goes_away(phone: Phone, device: Any, job: AgentCall) -> None:
    """After each command in turn: whatever was going on, it is one clear error, and afterwards all works."""
    device.run(ID, job)
    needed = json.loads((phone.home / "state.json").read_text(encoding="utf-8"))["commands"]
    assert needed > 5
    for count in range(needed - 1):  # the last command is the cleaning, which a device that is gone does not need
        shutil.rmtree(phone.home / "data", ignore_errors=True)
        phone.show(commands=0, unplugged_after=count)
        error = failure(device, job, DeviceError)
        assert "was cut" in error.message
        assert "not found" in error.got
    phone.show(unplugged_after=10**9)
    device.run(ID, job)


def test_a_full_device(phone: Phone, device: Any, job: AgentCall) -> None:
    phone.show(room=3)
    assert "disk is full" in failure(device, job, DeviceError).message
    assert phone.left() == []


def test_one_client_of_this_machine_at_a_time(phone: Phone, device: Any, job: AgentCall) -> None:
    phone.describe(lock_timeout_s=0.3)
    name = hashlib.sha256(SERIAL.encode()).hexdigest()[:12]
    with (Path(tempfile.gettempdir()) / f"edgedistill-adb-{name}.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "in use" in failure(device, job, DeviceError).message
    device.run(ID, job)


def test_a_client_of_another_machine_is_met_on_the_device(phone: Phone, device: Any, job: AgentCall) -> None:
    phone.describe(lock_timeout_s=0.3)
    (phone.home / "data").mkdir()
    with (phone.home / "data" / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another machine" in failure(device, job, DeviceError).got
    device.run(ID, job)


def test_what_a_program_cannot_give_is_refused(phone: Phone, device: Any, job: AgentCall, tmp_path: Path) -> None:
    from dataclasses import replace

    del phone
    wrong = [replace(job, profile=1), replace(job, sustained_min=1.0), replace(job, min_queries=0)]
    for one in [*wrong, replace(job, outputs=tmp_path / "o.npz")]:
        assert "cannot give" in failure(device, one, UsageError).message
    assert "onnxruntime" in failure(device, replace(job, runtime="onnxruntime"), UsageError).message
    with pytest.raises(UsageError, match="which device") as caught:
        device.describe("adb")
    assert ID in caught.value.expected
