"""Quantisation-aware training in recipes: when it is needed, what ships, and that nothing is done twice."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from edgedistill.conversion.recommendation import with_choice
from edgedistill.conversion.rival import _better
from edgedistill.errors import RecipeError
from edgedistill.recipe.document import Recipe, load_recipe
from edgedistill.runs import Stage
from edgedistill.stages.need import needed
from tests.conftest import ROOT, documents, edgedistill, kill_in, states

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Json

Finished = tuple["Path", dict[str, Any]]
WIDE = """\
name: wide
data: {source: digits}
teacher: {model: "separable:Separable", arguments: {width: 16, spread: 1.0}, train: {epochs: 8, clip_norm: 1.0}}
student: {model: "separable:Separable", arguments: {width: 8, spread: 30.0}}
distill: {epochs: 16, clip_norm: 1.0}
export: {formats: [onnx], precisions: [fp32, int8]}
quantize: {samples: 128, candidates: default, fallback: false, validation_samples: 250, qat: {epochs: 6}}
parity: {int8: {min_psnr_db: 15, min_top1_agreement: 0.8}}
benchmark: {rounds: 1, min_queries: 20, min_duration_s: 0.01, warmup_s: 0.01}
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose student has channels of very different ranges."""
    folder = tmp_path_factory.mktemp("wide")
    shutil.copyfile(ROOT / "examples" / "separable.py", folder / "separable.py")
    (folder / "wide.yaml").write_text(WIDE, encoding="utf-8")
    return folder / "wide.yaml"


@pytest.fixture(scope="module")
def trained(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Its run: calibration is not enough, so the student was trained on."""
    run = tmp_path_factory.mktemp("trained") / "run"
    done = edgedistill("compress", wide, "--run", run, "--json")
    assert done.returncode == 0, done.stderr
    return run, documents(done)


@pytest.mark.long
def test_where_calibration_loses_too_much_the_trained_file_ships_and_is_no_worse(trained: Finished) -> None:
    report = trained[1]["report"]
    artifact = next(a for a in report["artifacts"] if a["id"] == "student-onnx-int8")
    calibrated, qat = artifact["candidates"]
    assert calibrated["drop"] > 0.02, "calibration alone loses too little for a case"
    assert (calibrated["state"], qat["scheme"], qat["state"]) == ("loses too much", "qat", "shipped")
    assert qat["quality"] > calibrated["quality"]
    assert qat["quality"] >= qat["quality_calibrated"]
    assert artifact["within_margin"] == (qat["drop"] <= 0.01)
    assert artifact["producer"]["scheme"] == "qat"
    assert artifact["producer"]["trained_ranges"] >= 7
    assert artifact["integer_mac_share"] > 0.95
    assert artifact["parity"]["reference"] == "student-qat"
    assert artifact["parity"]["psnr_db"] > 35, "the file computes what was trained"
    simulated = next(m for m in report["models"] if m["id"] == "student-qat")
    assert abs(artifact["quality"]["value"] - simulated["quality"]["value"]) < 0.02
    (note,) = [note for note in artifact["notes"] if "quantisation-aware" in note]
    assert "made this file" in note
    assert f"n = {qat['n']}" in note
    assert (trained[0] / artifact["path"]).is_file()


@pytest.mark.long
def test_what_judges_the_files_was_not_learned(trained: Finished, wide: Path) -> None:
    """The held-out rows are those that the calibrated candidates were judged with, and no others are."""
    import numpy as np

    from edgedistill.events import QUIET
    from edgedistill.stages.files import load_data
    from edgedistill.stages.samples import judging_rows
    from edgedistill.stages.work import Work

    (data,) = (trained[0] / "stages" / "data").iterdir()
    work = Work(load_recipe(wide), wide.parent, trained[0], QUIET, {})
    rows = set(judging_rows(work, load_data(Stage("data", "", data, ""))).tolist())
    chosen = np.random.default_rng(0).permutation(898)[:128]
    assert len(rows) == 250
    assert not rows & set(chosen.tolist())
    (logs,) = (trained[0] / "logs" / "training").glob("student-qat")
    steps = (logs / "steps.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(steps) == 6 * -(-(898 - 250) // 64)


@pytest.mark.long
def test_nothing_is_trained_twice(trained: Finished, wide: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    again = documents(edgedistill("compress", wide, "--run", run, "--json"))
    assert set(states(again).values()) == {"reused"}
    more = ["--set", "export.precisions=[fp32, int8, int8-qat]"]
    beside = documents(edgedistill("compress", wide, "--run", run, "--json", *more))
    found = states(beside)
    assert (found["retrain"], found["requantize"]) == ("reused", "ran")
    artifacts = {a["id"]: a for a in beside["report"]["artifacts"]}
    own, static = artifacts["student-onnx-int8-qat"], artifacts["student-onnx-int8"]
    assert (own["precision"], static["precision"]) == ("int8-qat", "int8-static")
    assert static["parity"]["reference"] == "student"
    assert own["quality"]["value"] >= static["quality"]["value"]
    assert [row["scheme"] for row in own["candidates"]] == ["qat"]
    assert [row["scheme"] for row in static["candidates"]] == ["min-max"]
    assert (run / "bundle" / "artifacts" / "student-int8-qat.onnx").is_file()


@pytest.mark.slow  # the pipeline's own test kills in every stage, that of the training in the middle of it
def test_kill_9_in_the_new_stages_then_the_same_artifacts(trained: Finished, wide: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    for stage in ("retrain", "requantize", "parity", "benchmark", "report", "gate", "bundle"):
        shutil.rmtree(run / "stages" / stage)
    assert kill_in("retrain", wide, run)
    assert kill_in("requantize", wide, run)
    answer = documents(edgedistill("compress", wide, "--run", run, "--json"))
    before = {a["id"]: a["sha256"] for a in trained[1]["report"]["artifacts"]}
    assert {a["id"]: a["sha256"] for a in answer["report"]["artifacts"]} == before
    assert states(answer)["retrain"] == "reused"


def test_a_student_within_the_margin_is_not_trained(finished: Finished) -> None:
    report = finished[1]["report"]
    assert all(row["scheme"] != "qat" for a in report["artifacts"] for row in a["candidates"])
    assert all(m["id"] != "student-qat" for m in report["models"])
    (plan,) = (finished[0] / "stages" / "retrain").glob("*/plan.json")
    assert json.loads(plan.read_text(encoding="utf-8"))["use"] is False


def calibrated(folder: Path, *, met: bool, kept: int, integer: float, fmt: str = "onnx") -> Stage:
    """What the stage `quantize` leaves."""
    artifact = {"id": f"student-{fmt}-int8", "format": fmt, "precision": "int8-static", "integer_mac_share": integer}
    row = {"state": "shipped", "keep_float": [f"layer{n}" for n in range(kept)]}
    choice = {"artifact": artifact["id"], "met": met, "candidates": [{"state": "loses too much"}, row]}
    (folder / "artifacts.json").write_text(json.dumps([artifact]), encoding="utf-8")
    (folder / "candidates.json").write_text(json.dumps([choice]), encoding="utf-8")
    return Stage("quantize", "", folder, "")


def recipe(qat: dict[str, Any] | None = None, precisions: tuple[str, ...] = ("fp32", "int8")) -> Recipe:
    return Recipe.model_validate(
        {
            "data": {"source": "digits"},
            "teacher": {"family": "convnet", "width": 4, "train": {"epochs": 1}},
            "student": {"family": "convnet", "width": 2},
            "distill": {"epochs": 1},
            "export": {"precisions": list(precisions)},
            "quantize": {"qat": qat or {}},
        }
    )


@pytest.mark.parametrize(
    ("facts", "qat", "reason"),
    [
        ({"met": True, "kept": 0, "integer": 1.0}, {}, None),
        ({"met": True, "kept": 0, "integer": 0.3}, {}, None),  # float by nature: training changes nothing
        ({"met": False, "kept": 0, "integer": 1.0}, {}, "max_drop"),
        ({"met": False, "kept": 9, "integer": 0.0}, {}, "max_drop"),
        ({"met": True, "kept": 2, "integer": 0.8}, {}, None),
        ({"met": True, "kept": 2, "integer": 0.7}, {}, "max_float_macs"),
        ({"met": True, "kept": 2, "integer": 0.7}, {"max_float_macs": 0.5}, None),
        ({"met": True, "kept": 0, "integer": 1.0}, {"when": "always"}, "always"),
        ({"met": False, "kept": 0, "integer": 1.0}, {"when": "never"}, None),
        ({"met": False, "kept": 0, "integer": 1.0, "fmt": "ncnn"}, {}, None),  # no trained ranges
    ],
)
def test_when_training_is_needed(facts: Json, qat: dict[str, Any], reason: str | None, tmp_path: Path) -> None:
    found = needed(recipe(qat), calibrated(tmp_path, **facts))
    assert bool(found) == (reason is not None)
    assert all(reason is not None and reason in told for told in found.rivals.values())


def test_asked_for_by_its_word_it_leaves_the_calibrated_files_alone(tmp_path: Path) -> None:
    asked = recipe(precisions=("fp32", "int8", "int8-qat"))
    found = needed(asked, calibrated(tmp_path, met=False, kept=0, integer=1.0))
    assert found.own
    assert not found.rivals


@pytest.mark.parametrize(
    ("qualities", "fits", "rounds", "expected"),
    [
        ((0.8, 0.9), (True, False), [], (True, "loses too much")),
        ((0.9, 0.8), (False, True), [], (False, "loses too much")),
        ((0.9, 0.8), (False, False), [], (True, "loses too much")),
        ((0.8, 0.8), (False, False), [], (False, "loses too much")),  # of equals the calibrated one
        ((0.8, 0.9), (True, True), [[1.0, 1.0, 1.0], [0.5, 0.5, 0.9]], (True, "not faster")),
        ((0.9, 0.8), (True, True), [[0.5, 0.5, 0.9], [1.0, 1.0, 1.0]], (False, "not faster")),
        ((0.9, 0.8), (True, True), [[1.0, 1.0, 1.0], [0.5, 0.5, 0.96]], (True, "lower quality")),
        ((0.7, 0.8), (True, True), [[1.0, 1.0, 1.0], [0.5, 0.5, 0.96]], (False, "lower quality")),
    ],
)
def test_the_better_of_two_files(
    qualities: tuple[float, float], fits: tuple[bool, bool], rounds: list[list[float]], expected: tuple[bool, str]
) -> None:
    assert _better(qualities, fits, rounds) == expected


def test_a_training_that_did_not_pay_or_could_not_be_done_is_told() -> None:
    artifact: Any = {"id": "a", "notes": []}
    row: Json = {"scheme": "extremes", "keep_float": [], "state": "shipped", "drop": 0.03, "n": 70, "quality": 0.9}
    qat = {**row, "scheme": "qat", "state": "loses too much", "quality": 0.88, "quality_fp32": 0.93}
    choice: Any = {"artifact": "a", "met": False, "candidates": [row, {**qat, "quality_calibrated": 0.9}]}
    (_, note) = with_choice(artifact, [choice])["notes"]
    assert (
        "tried and is not shipped: 88.0 % against 93.0 % of fp32 and 90.0 % of the best calibrated file (-2.0" in note
    )
    choice = {"artifact": "a", "met": False, "candidates": [row], "untrained": "no graph can be made of the student"}
    assert "not possible: no graph" in with_choice(artifact, [choice])["notes"][-1]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("quantize: {qat: {when: never}}\nexport: {precisions: [fp32, int8-qat]}", "int8-qat"),
        ("quantize: {qat: {when: sometimes}}", "needed"),
        ("quantize: {qat: {epoch: 3}}", "epochs"),
        ("quantize: {qat: {max_float_macs: 2}}", "max_float_macs"),
    ],
)
def test_mistakes_in_the_recipe_are_named(line: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "data: {source: digits}\nteacher: {family: convnet, width: 4, train: {epochs: 1}}\n"
        f"student: {{family: convnet, width: 2}}\ndistill: {{epochs: 1}}\n{line}\n",
        encoding="utf-8",
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert told in str(caught.value)


def test_formats_without_trained_ranges_cannot_be_asked_for_them(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(WIDE, encoding="utf-8")
    shutil.copyfile(ROOT / "examples" / "separable.py", tmp_path / "separable.py")
    asked = ["--set", "export.formats=[ncnn]", "--set", "export.precisions=[fp32, int8-qat]", "--json"]
    done = edgedistill("compress", path, "--run", tmp_path / "run", *asked)
    assert done.returncode == 2
    assert "ncnn: fp32" in documents(done)["error"]["expected"]
