"""The main path as users run it: processes, kills, reuse, and what a report must hold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgedistill.pipeline import STAGES
from edgedistill.plugins import find_plugin
from edgedistill.recipe.document import load_recipe, recipe_sha256
from edgedistill.runs import Run
from tests.conftest import ROOT, digests, documents, edgedistill, kill_in, states

Finished = tuple[Path, dict[str, Any]]


def test_every_stage_ran_in_order_and_the_manifest_tells_it(finished: Finished) -> None:
    run, answer = finished
    assert [stage["name"] for stage in answer["stages"]] == list(STAGES)
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


def test_the_unchanged_recipe_executes_nothing_and_imports_no_torch(recipe: Path, copied: Path) -> None:
    script = (
        "import sys; from edgedistill.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'nncf'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "compress", str(recipe), "--run", str(copied), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(states(documents(done)).values()) == {"reused"}
    assert done.stderr.strip().endswith("[]")


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ("gate.size.max_ratio=1.9", "gate"),
        ("benchmark.rounds=1", "benchmark"),
        ("parity.fp32.max_relative=1e-3", "parity"),
    ],
)
def test_a_change_redoes_only_its_stage_and_what_follows(recipe: Path, copied: Path, change: str, first: str) -> None:
    done = edgedistill("compress", recipe, "--run", copied, "--json", "--set", change)
    found = states(documents(done))
    ran = [name for name, state in found.items() if state == "ran"]
    report = documents(done)["report"]
    assert report["recipe_sha256"] == recipe_sha256(load_recipe(recipe, [change]))
    assert {a["producer"]["recipe_sha256"] for a in report["artifacts"]} == {report["recipe_sha256"]}
    if first == "parity":  # the benchmark does not read parity
        assert ran == ["parity", "report", "gate", "bundle"]
    else:
        assert ran == list(STAGES[STAGES.index(first) :])


def test_until_stops_after_the_named_stage(recipe: Path, tmp_path: Path) -> None:
    done = edgedistill("compress", recipe, "--run", tmp_path / "run", "--until", "student", "--json")
    answer = documents(done)
    assert done.returncode == 0
    assert list(states(answer)) == ["data", "teacher", "student"]
    assert answer["report"] is None


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


def test_a_damaged_stage_is_made_again_with_the_same_digests(recipe: Path, copied: Path, finished: Finished) -> None:
    (damaged,) = (copied / "stages" / "export").glob("*/tflite/student-fp32.tflite")
    damaged.write_bytes(damaged.read_bytes()[:100])
    answer = documents(edgedistill("compress", recipe, "--run", copied, "--json"))
    assert [name for name, state in states(answer).items() if state == "ran"] == ["export"]
    assert digests(answer["report"]) == digests(finished[1]["report"])


def test_kill_9_in_every_stage_then_the_same_command_finishes_with_the_same_artifacts(
    recipe: Path, finished: Finished, tmp_path: Path
) -> None:
    """A stage of milliseconds may be over before the signal arrives; most are not."""
    run = tmp_path / "killed"
    killed = 0
    for position, stage in enumerate(STAGES):
        killed += kill_in(stage, recipe, run)
        believed = {p.parent.parent.name for p in run.glob("stages/*/*/stage.json")} & set(STAGES)
        assert set(STAGES[:position]) <= believed  # nothing that was finished is lost
    assert killed >= 8
    answer = documents(edgedistill("compress", recipe, "--run", run, "--json"))
    assert {name for name, state in states(answer).items() if state == "ran"} <= {"bundle"}
    assert digests(answer["report"]) == digests(finished[1]["report"])


def test_two_commands_cannot_share_a_run_directory(recipe: Path, copied: Path) -> None:
    import fcntl

    with (copied / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = edgedistill("compress", recipe, "--run", copied, "--json")
    assert done.returncode == 2
    assert documents(done)["error"]["code"] == "storage_error"


def test_python_api_gives_the_same_outcome(recipe: Path, copied: Path) -> None:
    import edgedistill as public

    outcome = public.compress(public.load_recipe(recipe), recipe.parent, copied)
    assert isinstance(outcome, public.Outcome)
    assert outcome.verdict is not None
    assert outcome.verdict.exit_code == 0
    assert {stage["state"] for stage in outcome.stages} == {"reused"}


def test_a_stage_that_fills_the_disk_is_told_and_not_believed(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that writes half a file without an error: only the full disk tells."""
    from edgedistill import pipeline
    from edgedistill.errors import StorageError

    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=0))
        with pytest.raises(StorageError, match="disk is full") as caught:
            pipeline.compress(load_recipe(recipe), recipe.parent, tmp_path / "run", until="data")
    assert caught.value.exit_code == 2
    assert not list((tmp_path / "run" / "stages").glob("data/*"))
    outcome = pipeline.compress(load_recipe(recipe), recipe.parent, tmp_path / "run", until="data")
    assert outcome.stages[0]["state"] == "ran"


def test_a_key_names_everything_that_a_stage_depends_on(
    recipe: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of our code, of torch or of an exporter's tool is a miss, never a stale hit."""
    from edgedistill import pipeline
    from edgedistill.report import build
    from edgedistill.stages import context as stages

    class Ran(Exception):  # noqa: N818 - a signal
        pass

    def refuse(_self: Run, name: str, _folder: Path, _make: object) -> dict[str, str]:
        raise Ran(name)

    monkeypatch.setattr(Run, "_make", refuse)
    loaded = load_recipe(recipe)
    pipeline.compress(loaded, recipe.parent, copied)  # nothing has to run
    real = build.package_versions
    for package, stage in (("torch", "teacher"), ("openvino", "export"), ("onnxruntime", "export")):

        def newer(*args: Any, name: str = package) -> dict[str, str]:
            found = real(*args)
            return {**found, name: "999"} if name in found else found

        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "package_versions", newer)
            patch.setattr(stages, "package_versions", newer)
            with pytest.raises(Ran, match=stage):
                pipeline.compress(loaded, recipe.parent, copied)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_code_digest", lambda: "another")
        with pytest.raises(Ran, match="data"):
            pipeline.compress(loaded, recipe.parent, copied)


def test_runtime_files_are_part_of_the_code_that_keys_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedistill import pipeline

    opener = tmp_path / "runtime.py"
    monkeypatch.setattr(find_plugin("exporters", "onnx"), "OPENER", opener)
    opener.write_text("RUNTIMES = {}", encoding="utf-8")
    before = pipeline._code_digest()
    assert pipeline._code_digest() == before
    opener.write_text("RUNTIMES = dict()", encoding="utf-8")
    assert pipeline._code_digest() != before


def test_the_example_with_an_own_model_and_checkpoint_runs(tmp_path: Path) -> None:
    folder = ROOT / "examples" / "own_model"
    quick = ["benchmark.rounds=1", "benchmark.min_duration_s=0.02", "benchmark.min_queries=70", "distill.epochs=20"]
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
        done = edgedistill("compress", tmp_path / f"{name}.yaml", "--run", run, "--until", "distill", "--json")
        assert done.returncode == 0, done.stderr
        (data,) = (run / "stages" / "data").iterdir()
        facts = json.loads((data / "data.json").read_text(encoding="utf-8"))
        assert facts["train_samples"] == samples
        assert len(facts["class_names"]) == 10
