"""The command line: wrong uses, every command's --json, help texts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml

from tests.conftest import TINY, documents, edgedistill

Finished = tuple[Path, dict[str, Any]]


def wrong(tmp_path: Path, *arguments: str | Path, recipe: str = TINY) -> dict[str, Any]:
    """Run a recipe that cannot work: exit code 2, one message with all its parts, no traceback."""
    (tmp_path / "wrong.yaml").write_text(recipe, encoding="utf-8")
    command = ["compress", tmp_path / "wrong.yaml", "--run", tmp_path / "run", "--until", "quantize", *arguments]
    done = edgedistill(*command, "--json")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    error = documents(done)["error"]
    assert all(error[part] for part in ("code", "message", "where", "expected", "got", "fix")), error
    for part in ("message", "expected", "fix"):
        assert error[part] in done.stderr
    return dict(error)


def with_npz(tmp_path: Path, **arrays: Any) -> str:
    np.savez(tmp_path / "data.npz", **arrays)
    return TINY.replace("{source: digits}", "{source: npz, path: data.npz}")


def images(n: int = 60) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 1, 8, 8)).astype(np.float32), np.arange(n) % 10


def test_unknown_key(tmp_path: Path) -> None:
    error = wrong(tmp_path, recipe=TINY.replace("quantize: {samples: 16,", "quantize: {sample: 16,"))
    assert "sample" in error["message"]
    assert "'samples'" in error["expected"]
    assert "wrong.yaml, line 7" in error["where"]


def test_unknown_key_by_set(tmp_path: Path) -> None:
    assert "'temperature'" in wrong(tmp_path, "--set", "distill.temprature=3")["expected"]


def test_wrong_type(tmp_path: Path) -> None:
    error = wrong(tmp_path, "--set", "distill.epochs=many")
    assert "distill.epochs" in error["where"]
    assert error["got"] == "'many'"


def test_missing_recipe(tmp_path: Path) -> None:
    done = edgedistill("compress", tmp_path / "none.yaml", "--json")
    assert done.returncode == 2
    assert "none.yaml" in documents(done)["error"]["message"]


def test_missing_data_file(tmp_path: Path) -> None:
    error = wrong(tmp_path, recipe=TINY.replace("{source: digits}", "{source: npz, path: absent.npz}"))
    assert "absent.npz" in error["message"]


def test_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"features.0.weight": torch.zeros(9, 1, 3, 3)}, tmp_path / "other.safetensors")
    error = wrong(tmp_path, "--set", "student.checkpoint=other.safetensors")
    assert "other.safetensors" in error["where"]
    assert "(9, 1, 3, 3)" in error["got"]


def test_labels_out_of_range(tmp_path: Path) -> None:
    x, y = images()
    error = wrong(tmp_path, recipe=with_npz(tmp_path, x=x, y=y - 1))
    assert "labels out of range" in error["message"]
    assert "sample 0" in error["where"]
    named = with_npz(tmp_path, x=x, y=y).replace("data.npz}", "data.npz, labels: [a, b]}")
    assert "0 to 1" in wrong(tmp_path, recipe=named)["expected"]


def test_nan_in_the_data(tmp_path: Path) -> None:
    x, y = images()
    x[7, 0, 3, 3] = np.nan
    error = wrong(tmp_path, recipe=with_npz(tmp_path, x=x, y=y))
    assert "NaN" in error["message"]
    assert "sample 7" in error["where"]


def test_an_empty_class_folder(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("cat", "dog", "emu"):
        (tmp_path / "pets" / name).mkdir(parents=True)
    for name in ("cat", "dog"):
        Image.new("L", (8, 8)).save(tmp_path / "pets" / name / "1.png")
    error = wrong(tmp_path, recipe=TINY.replace("{source: digits}", "{source: image_folder, path: pets}"))
    assert "'emu'" in error["message"]


def test_calibration_data_of_another_shape(tmp_path: Path) -> None:
    np.savez(tmp_path / "calibration.npz", x=np.zeros((4, 1, 9, 9), np.float32))
    error = wrong(tmp_path, "--set", "quantize.calibration=calibration.npz", "--set", "export.formats=[onnx]")
    assert "calibration.npz" in error["where"]
    assert "(1, 8, 8)" in error["expected"]
    assert "(1, 9, 9)" in error["got"]


def test_an_unknown_exporter(tmp_path: Path) -> None:
    error = wrong(tmp_path, "--set", "export.formats=[onx]")
    assert "did you mean 'onnx'" in error["expected"]


def test_an_unknown_device_and_stage(tmp_path: Path) -> None:
    assert "cpu" in wrong(tmp_path, "--set", "benchmark.device=cpx")["expected"]
    for emulated in ("arm:cortex-a53", "micro:nucleo-l4r5zi"):  # nothing is timed there
        assert "cannot measure a recipe" in wrong(tmp_path, "--set", f"benchmark.device={emulated}")["message"]
    assert "did you mean 'teacher'" in wrong(tmp_path, "--until", "teachr")["expected"]


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """find_spec answers as where the extra is not installed."""
    import importlib.util

    from edgedistill.errors import PluginError
    from edgedistill.plugins import load_plugin, plugin_names

    real = importlib.util.find_spec
    absent = "ai_edge_quantizer"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == absent else real(name, *a))
    assert "tflite" in plugin_names("exporters")
    with pytest.raises(PluginError, match=absent) as caught:
        load_plugin("exporters", "tflite")
    assert caught.value.fix == "pip install 'edgedistill[tflite]'"
    assert caught.value.exit_code == 2


def test_a_run_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in wrong(tmp_path, "--run", tmp_path / "file" / "run")["message"]
    assert wrong(tmp_path, "--run", Path("/proc/run"))["code"] == "storage_error"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_run_directory(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    assert wrong(tmp_path)["code"] == "storage_error"


def test_a_model_that_gives_other_classes(tmp_path: Path) -> None:
    source = """
import torch
def small():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7))
"""
    (tmp_path / "cli_models.py").write_text(source)
    error = wrong(tmp_path, "--set", "student={model: 'cli_models:small'}")
    assert "10 classes" in error["expected"]
    assert "(batch, 7)" in error["got"]


def test_wrong_options_exit_2_without_a_traceback() -> None:
    done = edgedistill("compress", "--no-such-option", "--json")
    assert done.returncode == 2
    assert "no-such-option" in documents(done)["error"]["message"]
    assert edgedistill("no-such-command").returncode == 2


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = edgedistill("compress", tmp_path / "none.yaml", "--debug")
    assert "Traceback" in done.stderr


def test_gate_judges_a_report_by_a_policy_file(finished: Finished, tmp_path: Path) -> None:
    report = finished[0] / "report.json"
    (tmp_path / "easy.yaml").write_text("parity: true\n")
    (tmp_path / "hard.yaml").write_text("size: {max_bytes: 1}\n")
    assert edgedistill("gate", report, "--policy", tmp_path / "easy.yaml").returncode == 0
    done = edgedistill("gate", report, "--policy", tmp_path / "hard.yaml", "--json")
    assert done.returncode == 1
    assert documents(done)["gate"]["verdict"] == "fail"
    files: list[str | Path] = [
        "--junit",
        tmp_path / "gate" / "junit.xml",
        "--summary",
        tmp_path / "gate" / "summary.md",
    ]
    assert edgedistill("gate", report, "--policy", tmp_path / "hard.yaml", *files).returncode == 1
    suite = ET.fromstring((tmp_path / "gate" / "junit.xml").read_text(encoding="utf-8"))  # noqa: S314 - we wrote it
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure")) == 6
    assert int(suite.attrib["tests"]) == len(suite.findall("testcase")) == len(documents(done)["gate"]["checks"])
    summary = (tmp_path / "gate" / "summary.md").read_text(encoding="utf-8")
    assert "| fail | `size:student-onnx-int8` |" in summary
    (tmp_path / "wrong.yaml").write_text("sise: {max_bytes: 1}\n")
    done = edgedistill("gate", report, "--policy", tmp_path / "wrong.yaml", "--json")
    assert done.returncode == 2
    assert "did you mean 'size'" in documents(done)["error"]["expected"]
    done = edgedistill("gate", tmp_path / "easy.yaml", "--policy", tmp_path / "easy.yaml", "--json")
    assert done.returncode == 2


def test_report_is_drawn_again_from_its_json(copied: Path) -> None:
    before = (copied / "report.html").read_text(encoding="utf-8")
    (copied / "report.html").unlink()
    done = edgedistill("report", copied, "--json")
    assert done.returncode == 0, done.stderr
    assert (copied / "report.html").read_text(encoding="utf-8") == before
    assert edgedistill("report", copied / "nothing").returncode == 2


def test_bundle_is_copied_verified_and_damage_is_seen(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "release"
    assert edgedistill("bundle", finished[0], "-o", out).returncode == 0
    assert documents(edgedistill("verify", out, "--json"))["gate"] == "pass"
    assert edgedistill("bundle", finished[0], "-o", out).returncode == 2
    victim = out / "artifacts" / "student-int8.tflite"
    victim.write_bytes(victim.read_bytes() + b"\0")
    done = edgedistill("verify", out, "--json")
    assert done.returncode == 3
    assert "student-int8.tflite" in documents(done)["error"]["message"]
    assert edgedistill("verify", tmp_path).returncode == 2


def test_parity_of_two_files_of_different_formats(finished: Finished, tmp_path: Path) -> None:
    artifacts = finished[0] / "bundle" / "artifacts"
    same = edgedistill("parity", artifacts / "student-fp32.onnx", artifacts / "student-fp32.tflite", "--json")
    assert same.returncode == 0, same.stderr
    assert documents(same)["parity"]["max_relative"] < 1e-4
    int8 = edgedistill("parity", artifacts / "student-fp32.onnx", artifacts / "openvino" / "student-int8.xml", "--json")
    assert documents(int8)["parity"]["max_abs"] > 1e-3
    (teacher,) = (finished[0] / "stages" / "export").glob("*/onnx/teacher-fp32.onnx")
    assert edgedistill("parity", artifacts / "student-fp32.onnx", teacher).returncode == 1
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    assert edgedistill("parity", artifacts / "student-fp32.onnx", tmp_path / "broken.onnx").returncode == 3
    assert edgedistill("parity", artifacts / "student-fp32.onnx", tmp_path / "model.weights").returncode == 2


def test_benchmark_measures_files_beside_a_reference(finished: Finished) -> None:
    artifacts = finished[0] / "bundle" / "artifacts"
    (teacher,) = (finished[0] / "stages" / "export").glob("*/onnx/teacher-fp32.onnx")
    command: list[str | Path] = ["benchmark", artifacts / "student-fp32.onnx", "--against", teacher, "--rounds", "1"]
    measurements = documents(edgedistill(*command, "--json"))["measurements"]
    assert len(measurements) == 2
    candidate, reference = measurements
    assert candidate["ratio_to_reference"]["reference"] == reference["artifact"] == "teacher-fp32-onnx-fp32"
    assert candidate["ratio_to_reference"]["answer"] == "inconclusive", "one round has no spread"
    assert reference["rounds"] == 2, "before and after"
    assert "onnxruntime" in edgedistill(*command).stdout


def test_devices_plugins_doctor_and_recipe_answer_in_json(recipe: Path) -> None:
    assert "cpu" in {d["id"] for d in documents(edgedistill("devices", "list", "--json"))["devices"]}
    assert documents(edgedistill("devices", "show", "cpu", "--json"))["devices"][0]["cores"] >= 1
    assert edgedistill("devices", "show", "no-such-device").returncode == 2
    assert {p["name"] for p in documents(edgedistill("plugins", "--json"))["plugins"]["exporters"]} >= {"onnx"}
    assert documents(edgedistill("doctor", "--json"))["healthy"] is True
    assert documents(edgedistill("recipe", "check", recipe, "--json"))["recipe"]["name"] == "small"
    assert "distill" in json.loads(edgedistill("recipe", "schema").stdout)["properties"]


def test_the_same_commands_speak_to_people(recipe: Path) -> None:
    assert "cores" in edgedistill("devices", "list").stdout
    assert "cores" in edgedistill("devices", "show", "cpu").stdout
    assert "ready" in edgedistill("plugins").stdout
    assert "tflite-runtime" in edgedistill("doctor").stdout
    assert "a valid recipe" in edgedistill("recipe", "check", recipe).stdout


def test_metadata_is_yaml_with_digests_and_tool_versions(finished: Finished) -> None:
    metadata = yaml.safe_load((finished[0] / "bundle" / "metadata.yaml").read_text(encoding="utf-8"))
    assert metadata["tool_versions"]["torch"]
    assert all(len(f["sha256"]) == 64 for a in metadata["artifacts"] for f in a["files"])
