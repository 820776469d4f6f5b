"""The main path as users run it: what a report and a bundle hold, from data of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgedistill.stages import NAMES
from tests.conftest import ROOT, documents, edgedistill, states

Finished = tuple[Path, dict[str, Any]]


def test_every_stage_ran_in_order_and_the_manifest_tells_it(finished: Finished) -> None:
    run, answer = finished
    assert [stage["name"] for stage in answer["stages"]] == list(NAMES)
    assert set(states(answer).values()) == {"ran"}
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["stages"][0]) == {"name", "key", "state", "seconds", "cached"}


def test_the_report_lists_six_student_artifacts_and_the_teachers_all_at_parity(finished: Finished) -> None:
    report = finished[1]["report"]
    students = [a for a in report["artifacts"] if a["model"] == "student"]
    assert sorted(a["id"] for a in students) == sorted(
        f"student-{fmt}-{precision}" for fmt in ("onnx", "tflite", "openvino") for precision in ("fp32", "int8")
    )
    assert {a["format"] for a in report["artifacts"] if a["model"] == "teacher"} == {"onnx", "tflite", "openvino"}
    for artifact in report["artifacts"]:
        assert artifact["parity"]["state"] == "pass", artifact
        assert artifact["parity"]["n"] == artifact["quality"]["n"] == report["task"]["eval_samples"] == 899
        low, high = artifact["quality"]["ci95"]
        assert low < artifact["quality"]["value"] < high
        share = artifact["integer_mac_share"]
        assert share == 0 if artifact["precision"] == "fp32" else share > 0.95
        assert artifact["macs"] in {m["macs"] for m in report["models"]}
    assert {m["id"] for m in report["models"]} == {"teacher", "student", "student-labels-only"}


def test_each_artifact_is_measured_in_every_runtime_beside_the_teacher(finished: Finished) -> None:
    report = finished[1]["report"]
    measured = {(m["artifact"], m["runtime"]) for m in report["measurements"]}
    assert {runtime for _, runtime in measured} == {"onnxruntime", "tflite-runtime", "litert", "openvino"}
    assert {a for a, _ in measured} == {a["id"] for a in report["artifacts"]}
    for one in report["measurements"]:
        assert one["source"] == "measured"
        assert one["latency_ms"]["count"] >= 80
        memory = one["memory_bytes"]
        assert 0 < memory["baseline"] < memory["after_import"] <= memory["peak"]
        assert one["ratio_to_teacher"]["reference"].startswith("teacher-")


def test_report_and_bundle_are_where_the_contract_says(finished: Finished) -> None:
    run, answer = finished
    assert json.loads((run / "report.json").read_text(encoding="utf-8")) == answer["report"]
    assert "gate: pass" in (run / "report.html").read_text(encoding="utf-8")
    for artifact in answer["report"]["artifacts"]:
        assert (run / artifact["path"]).is_file()
    metadata = yaml.safe_load((run / "bundle" / "metadata.yaml").read_text(encoding="utf-8"))
    assert metadata["release"] is True
    assert len(metadata["labels"]) == 10
    assert metadata["normalization"]["formula"] == "(raw - mean) / std"
    scripts = {p.name for p in (run / "bundle").glob("run_*.py")}
    assert scripts == {"run_onnxruntime.py", "run_tflite.py", "run_openvino.py"}


def test_the_bundles_own_scripts_agree_with_its_example_logits(finished: Finished, tmp_path: Path) -> None:
    import numpy as np

    bundle = finished[0] / "bundle"
    expected = np.load(bundle / "example_logits.npy")
    for script, model in (
        ("run_onnxruntime.py", "artifacts/student-fp32.onnx"),
        ("run_tflite.py", "artifacts/student-fp32.tflite"),
        ("run_openvino.py", "artifacts/openvino/student-fp32.xml"),
    ):
        command: list[str | Path] = [
            sys.executable,
            "-I",
            bundle / script,
            bundle / model,
            "--output",
            tmp_path / "out.npy",
        ]
        subprocess.run(command, check=True, capture_output=True)
        assert np.abs(np.load(tmp_path / "out.npy") - expected).max() < 1e-4
        everything = subprocess.run([sys.executable, "-I", bundle / script], check=True, capture_output=True, text=True)
        assert everything.stdout.count("sample 0:") == 2  # fp32 and int8


def test_calibration_never_sees_an_evaluation_sample(finished: Finished) -> None:
    import numpy as np

    (data,) = (finished[0] / "stages" / "data").iterdir()
    train, evaluation = (np.load(data / f"{part}_inputs.npy") for part in ("train", "eval"))
    seen = {row.tobytes() for row in train}
    assert not [row for row in evaluation if row.tobytes() in seen]


def test_a_gate_that_cannot_pass_exits_1_and_names_the_check_everywhere(recipe: Path, copied: Path) -> None:
    command: list[str | Path] = ["compress", recipe, "--run", copied, "--set", "gate.size.max_bytes=10"]
    spoken, written = edgedistill(*command), edgedistill(*command, "--json")
    assert spoken.returncode == written.returncode == 1
    failed = [c for c in documents(written)["report"]["gate"]["checks"] if c["state"] == "fail"]
    assert {"size:student-onnx-int8"} <= {c["id"] for c in failed}
    page = (copied / "report.html").read_text(encoding="utf-8")
    for check in failed:
        assert f"{check['value']} bytes, at most 10 allowed" in check["reason"]
        assert check["id"] in spoken.stdout.replace("\n", "")
        assert check["id"] in page
        assert check["reason"] in page
    assert "not for release" in spoken.stdout
    assert edgedistill("verify", copied / "bundle").returncode == 3


@pytest.mark.long
def test_the_example_with_an_own_model_and_checkpoint_runs(tmp_path: Path) -> None:
    folder = ROOT / "examples" / "own_model"
    quick = [
        "benchmark.rounds=1",
        "benchmark.min_duration_s=0.02",
        "benchmark.min_queries=70",
        "distill.epochs=20",
        "export.formats=[onnx]",
        "quantize.candidates=default",
    ]
    changes = [part for change in quick for part in ("--set", change)]
    done = edgedistill("compress", folder / "own_model.yaml", "--run", tmp_path / "run", "--json", *changes)
    assert done.returncode == 0, done.stderr
    report = documents(done)["report"]
    teacher = next(m for m in report["models"] if m["id"] == "teacher")
    assert teacher["parameters"] == 30 * 96 + 96 + 96 * 96 + 96 + 96 * 2 + 2
    assert teacher["quality"]["value"] > 0.95  # the checkpoint's weights, not random ones
    assert report["artifacts"][0]["signature"]["labels"] == ["malignant", "benign"]


def test_npz_and_image_folder_data_reach_the_same_digits(recipe: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    np.savez(tmp_path / "digits.npz", x=digits.images.astype(np.uint8), y=digits.target)
    for number, (image, label) in enumerate(zip(digits.images[:400], digits.target[:400], strict=True)):
        folder = tmp_path / "digits" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"{number}.png")
    text = recipe.read_text(encoding="utf-8")
    (tmp_path / "npz.yaml").write_text(text.replace("{source: digits}", "{source: npz, path: digits.npz}"))
    (tmp_path / "folder.yaml").write_text(
        text.replace("{source: digits}", "{source: image_folder, path: digits, mode: L}")
    )
    for name, samples in (("npz", 898), ("folder", 200)):
        run = tmp_path / name
        done = edgedistill("compress", tmp_path / f"{name}.yaml", "--run", run, "--until", "data", "--json")
        assert done.returncode == 0, done.stderr
        (data,) = (run / "stages" / "data").iterdir()
        facts = json.loads((data / "data.json").read_text(encoding="utf-8"))
        assert facts["train_samples"] == samples
        assert len(facts["class_names"]) == 10
