"""Simulated devices beside measured ones: apart, visibly different, and held to the interval's upper end."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from edgedistill.conversion.recommendation import recommend
from edgedistill.errors import UsageError
from edgedistill.pipeline import check
from edgedistill.prediction.predict import predict
from edgedistill.recipe.document import Gate, PredictedGate, Recipe, load_recipe
from edgedistill.release.gate import judge
from edgedistill.report.html import render
from edgedistill.report.plots import quality_against_latency
from edgedistill.report.rows import rows
from tests.conftest import SMALL
from tests.helpers.predicting import convolutions

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.documents.measurements import Prediction
    from edgedistill.documents.report import Report

    Finished = tuple[Path, dict[str, Any]]


@pytest.fixture
def predicted(tmp_path: Path) -> dict[str, Any]:
    path = convolutions(tmp_path / "n.onnx", 64, size=112)
    return dict(predict(path, ["rpi-4b"], predictor="graph")["predictions"][0])


@pytest.fixture
def report(finished: Finished, predicted: dict[str, Any]) -> Report:
    document = copy.deepcopy(finished[1]["report"])
    student = next(a["id"] for a in document["artifacts"] if a["model"] == "student")
    document["measurements"].append({**predicted, "artifact": student})
    found: Report = document
    return found


def prediction_of(report: Report) -> Prediction:
    (found,) = [m for m in report["measurements"] if m["source"] == "predicted"]
    return found


def test_the_page_shows_predictions_apart_and_hatched(report: Report, finished: Finished) -> None:
    page = render(report, quality_against_latency(report))
    assert "Simulated devices" in page
    assert "sim:raspberry-pi-4b" in page
    assert "pattern" in page
    assert "nothing here was measured" in page
    measured: Report = finished[1]["report"]
    without = render(measured, "")
    assert "Simulated devices" not in without
    assert len(rows(report)) == len(rows(measured))  # the table of what was measured holds none
    timed = [m for m in report["measurements"] if m["source"] == "measured"]
    assert recommend(report["artifacts"], timed) == report.get("recommendations")


def test_unvalidated_stands_in_the_page(report: Report) -> None:
    prediction_of(report).update({"calibration": "spec-only", "mdape": None})
    assert "spec-only UNVALIDATED" in render(report, "")


@pytest.mark.parametrize(
    ("of_interval", "state"), [(1.01, "pass"), (0.99, "inconclusive"), (0.5, "inconclusive"), (-0.01, "fail")]
)
def test_the_gate_takes_the_upper_end(report: Report, of_interval: float, state: str) -> None:
    low, high = prediction_of(report)["interval80_ms"]
    policy = Gate(predicted=PredictedGate(max_ms=low + of_interval * (high - low)), parity=False)
    checks = {c.id: c.state for c in judge(report, policy).checks}
    (found,) = [s for name, s in checks.items() if name.endswith("sim:raspberry-pi-4b")]
    assert found == state
    assert "invalid" in checks.values()  # the other artifacts have no prediction, which cannot pass


def test_an_unvalidated_prediction_decides_nothing(report: Report) -> None:
    prediction_of(report)["calibration"] = "no evidence"
    checks = judge(report, Gate(predicted=PredictedGate(max_ms=1e6), parity=False)).checks
    assert [c.state for c in checks if c.id.endswith("sim:raspberry-pi-4b")] == ["invalid"]


def test_a_recipe_cannot_measure_on_a_simulated_device_and_is_told_what_it_can(tmp_path: Path) -> None:
    for key, fix in (
        ("device: sim:raspberry-pi-4b", "benchmark.simulated: [raspberry-pi-4b]"),
        ("simulated: [rpi-9]", "devices list"),
    ):
        (tmp_path / "r.yaml").write_text(SMALL.replace("benchmark: {", f"benchmark: {{{key}, "), encoding="utf-8")
        with pytest.raises(UsageError) as caught:
            check(load_recipe(tmp_path / "r.yaml", []), tmp_path)
        assert fix in caught.value.fix


def test_a_recipe_names_simulated_devices() -> None:
    document = yaml.safe_load(SMALL)
    document["benchmark"]["simulated"] = ["raspberry-pi-4b"]
    document["gate"]["predicted"] = {"max_ms": 5}
    recipe = Recipe.model_validate(document)
    assert recipe.benchmark.simulated == ["raspberry-pi-4b"]
    with pytest.raises(ValueError, match="greater than 0"):
        PredictedGate(max_ms=0)
