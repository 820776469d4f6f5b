"""The distillation core as recipes meet it: what they may ask for, and what they are told when it cannot be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgedistill import pipeline
from edgedistill.cli.main import main
from edgedistill.errors import EdgeDistillError, ModelError, StorageError
from edgedistill.recipe.document import load_recipe
from edgedistill.release.gate import gate_of
from tests.helpers.school import HARD, SOFT, images

TEACHER = {"family": "convnet", "width": 6, "depth": 1, "train": {"epochs": 2, "batch_size": 16}}
MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3, form="tensor", dead=False):
        super().__init__()
        self.form = form
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.unused = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, classes)
    def forward(self, x):
        hidden = self.conv(x).relu()
        logits = self.head(hidden.mean((2, 3)))
        return {"tensor": logits, "dict": {"hidden": hidden, "scores": logits}, "tuple": (hidden, logits)}[self.form]
"""


def document(folder: Path, **changes: Any) -> Path:
    """A recipe of 48 training samples in its own folder."""
    inputs, labels = images(64)
    np.savez(folder / "data.npz", x=inputs, y=labels)
    (folder / f"models_{folder.name}.py").write_text(MODELS, encoding="utf-8")
    told = {
        "data": {"source": "npz", "path": "data.npz", "evaluation_fraction": 0.25},
        "teacher": TEACHER,
        "student": {"family": "convnet", "width": 2, "depth": 1},
        "distill": {"epochs": 2, "batch_size": 16, "objective": [HARD, SOFT]},
        "export": {"formats": ["onnx"], "precisions": ["fp32"]},
        "benchmark": {"rounds": 1, "min_queries": 10, "min_duration_s": 0.0, "warmup_s": 0.0},
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(told), encoding="utf-8")
    return path


def imported(folder: Path, **arguments: Any) -> dict[str, Any]:
    return {"model": f"models_{folder.name}:Net", "arguments": arguments}


def distil(path: Path, *overrides: str, until: str = "distill", run: str = "run") -> pipeline.Outcome:
    return pipeline.compress(load_recipe(path, overrides), path.parent, path.parent / run, until=until)


def states(outcome: pipeline.Outcome) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in outcome.stages}


def made(path: Path, stage: str, name: str) -> Path:
    return max((path.parent / "run" / "stages" / stage).glob(f"*/{name}"), key=lambda found: found.stat().st_mtime_ns)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(made(path, "distill", "student.safetensors"))


CACHED = ("distill.cache={mode: always, store: fp32}",)


def test_a_damaged_cache_is_found_out_and_made_again(tmp_path: Path) -> None:
    path = document(tmp_path)
    assert states(distil(path, *CACHED))["cache"] == "ran"
    before = weights(path)
    array = (
        made(path, "cache", "cache/0.npy")
        if list(tmp_path.glob("run/stages/cache/*/cache"))
        else made(path, "cache", "0.npy")
    )
    damaged = bytearray(array.read_bytes())
    damaged[-1] ^= 1
    array.chmod(0o644)
    array.write_bytes(damaged)
    again = distil(path, *CACHED, "distill.learning_rate=0.05")
    assert states(again)["cache"] == "ran", "one bit was wrong"
    distil(path, *CACHED)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(path).items())


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ("distill.learning_rate=0.01", "reused"),
        ("distill.objective=[{loss: cross_entropy}, {loss: soft_targets, weight: 0.3, temperature: 3}]", "reused"),
        ("seed=1", "ran"),
        ("teacher.train.epochs=1", "ran"),
        ("data.normalize=none", "ran"),
        ("distill.augment={noise: 0.1, views: 1}", "ran"),
        ("distill.cache={mode: always, store: fp16}", "ran"),
    ],
)
def test_a_cache_is_reused_just_as_long_as_it_is_right(change: str, state: str, tmp_path: Path) -> None:
    path = document(tmp_path)
    distil(path, *CACHED, until="cache")
    assert states(distil(path, *CACHED, change, until="cache"))["cache"] == state


def test_a_cache_that_pays_is_chosen_and_says_why(tmp_path: Path) -> None:
    path = document(tmp_path)
    distil(path, until="cache")
    plan = json.loads(made(path, "cache", "plan.json").read_text(encoding="utf-8"))
    assert plan["use"]
    assert "1 times over the data instead of 2" in plan["reason"]
    assert plan["size_bytes"] > 0
    with pytest.raises(StorageError, match="does not fit") as caught:
        distil(path, "distill.cache={mode: always, max_gb: 0.00000001}", until="cache")
    assert all((caught.value.where, caught.value.expected, caught.value.got, caught.value.fix))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student": "classes=5"}, "5"),
        ({"teacher": "form=dict"}, "hidden, scores"),
        ({"teacher": "form=tuple"}, "a tuple of 2"),
    ],
)
def test_models_that_do_not_answer_alike_are_refused(changes: dict[str, str], says: str, tmp_path: Path) -> None:
    (side, told), *_ = changes.items()
    key, value = told.split("=")
    path = document(tmp_path, **{side: imported(tmp_path, **{key: int(value) if value.isdigit() else value})})
    with pytest.raises(EdgeDistillError) as caught:
        distil(path)
    error = caught.value
    assert says in f"{error.message} {error.got} {error.expected}"
    assert error.exit_code == 2
    assert all((error.where, error.fix))


@pytest.mark.parametrize("output", [{"form": "dict", "output": "scores"}, {"form": "tuple", "output": 1}])
def test_a_teacher_whose_logits_are_named_teaches_and_is_released_beside_the_student(
    output: dict[str, Any], tmp_path: Path
) -> None:
    teacher = {**imported(tmp_path, form=output["form"]), "output": output["output"]}
    outcome = distil(document(tmp_path, teacher=teacher), until="bundle")
    assert outcome.report is not None
    assert {a["model"] for a in outcome.report["artifacts"]} == {"teacher", "student"}
    assert all(a["parity"]["state"] == "pass" for a in outcome.report["artifacts"])


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (("unused", "features.0"), "unused"),
        (("cnv", "features.0"), "conv"),
        (("conv", "features.99"), "features"),
        (("head", "features.0"), "shape"),
    ],
)
def test_layers_that_cannot_be_listened_to_or_joined_are_told(
    layers: tuple[str, str], says: str, tmp_path: Path
) -> None:
    term = {"loss": "attention_transfer", "student_layers": layers[0], "teacher_layers": layers[1]}
    path = document(tmp_path, student=imported(tmp_path), distill={"epochs": 1, "objective": [HARD, term]})
    with pytest.raises(ModelError) as caught:
        distil(path)
    error = caught.value
    assert says in f"{error.message} {error.expected} {error.got} {error.where}"
    assert error.fix


def test_a_loss_that_is_no_number_names_term_and_step_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    terms = "distill.objective=[{loss: cross_entropy}, {loss: logit_mse, weight: 1.0e+38}]"
    path = document(tmp_path)
    with pytest.raises(ModelError, match=r"became (nan|inf)") as caught:
        distil(path, terms, "distill.learning_rate=1.0e+30", "distill.epochs=4")
    error = caught.value
    assert "step" in error.where
    if "checkpoint" in error.message:
        kept = Path(error.message.split("checkpoint is ")[1].split(";")[0].strip())
        assert kept.is_file()
    assert not list(tmp_path.glob("run/stages/distill/*/student.safetensors"))


def test_samples_without_labels_teach_through_the_teacher_alone(tmp_path: Path) -> None:
    path = document(tmp_path)
    inputs, _ = images(40)
    np.savez(tmp_path / "more.npz", x=inputs[::-1])
    distil(path)
    alone = weights(path)
    distil(path, "data.unlabelled=more.npz")
    mixed = weights(path)
    assert any(not torch.equal(alone[name], mixed[name]) for name in alone)
    labels_only = "distill.objective=[{loss: cross_entropy}]"
    distil(path, "data.unlabelled=more.npz", labels_only)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(path).values())


def test_several_seeds_are_reported_with_mean_and_deviation(tmp_path: Path) -> None:
    outcome = distil(document(tmp_path), "distill.seeds=3", "distill.baseline=true", until="gate")
    assert outcome.report is not None
    for model in outcome.report["models"]:
        if model["role"] == "teacher":
            continue
        assert "seeds" in model
        told = model["seeds"]
        assert told["n"] == len(told["values"]) == 3
        assert told["values"][0] == model["quality"]["value"]
        mean = sum(told["values"]) / 3
        assert told["mean"] == pytest.approx(mean)
        assert told["std"] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in told["values"]) / 2))


def test_a_black_box_teaches_and_is_compared_in_quality_alone(tmp_path: Path) -> None:
    first = distil(document(tmp_path), until="export")
    file = next((first.run / "stages" / "export").rglob("teacher-fp32.onnx"))
    (tmp_path / "box.onnx").write_bytes(file.read_bytes())
    path = document(
        tmp_path, teacher={"file": "box.onnx"}, gate={"quality": {"max_drop": 1.0}, "size": {"max_ratio": 1}}
    )
    outcome = distil(path, until="bundle", run="box")
    assert outcome.report is not None
    teacher = next(m for m in outcome.report["models"] if m["role"] == "teacher")
    assert teacher["macs"] is None
    assert {a["model"] for a in outcome.report["artifacts"]} == {"student"}
    checks = {c["id"].split(":")[0]: c["state"] for c in gate_of(outcome.report)["checks"]}
    assert checks["quality"] == "pass"
    assert checks["size-ratio"] == "invalid", "there is no teacher's file to compare with"


def test_layers_are_listed_for_recipes_functions_and_programs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = document(tmp_path, student=imported(tmp_path))
    assert main(["layers", str(path), "--json"]) == 0
    student, teacher = json.loads(capfd.readouterr().out)["models"]
    names = {layer["name"]: layer for layer in student["layers"]}
    assert {"conv", "head"} <= set(names)
    assert names["conv"]["input_shape"][0] == 1
    assert names["conv"]["output_shape"] == [4, *names["conv"]["input_shape"][1:]]
    assert teacher["layers"]
    assert main(["layers", f"models_{tmp_path.name}:Net", "--input", "1,8,8", "--json"]) == 0
    assert {layer["name"] for layer in json.loads(capfd.readouterr().out)["models"][0]["layers"]} >= {"conv", "head"}
    assert main(["layers", f"models_{tmp_path.name}:Net", "--input", "one", "--json"]) == 2
    assert "whole numbers" in json.loads(capfd.readouterr().out)["error"]["expected"]
    assert main(["layers", str(path)]) == 0
    assert "head" in capfd.readouterr().out
