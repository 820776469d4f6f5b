"""The documents are what their types say, no more and no less; and what is not is refused by name."""

from __future__ import annotations

import copy
import inspect
import json
from typing import TYPE_CHECKING, Any, NotRequired, get_origin

import numpy as np
import pytest
from pydantic import ConfigDict, TypeAdapter
from torch import nn
from typing_extensions import get_type_hints, is_typeddict

import edgedistill
from edgedistill.cli.main import main
from edgedistill.documents import answers, artifacts, measurements
from edgedistill.documents import report as reports
from edgedistill.documents.measurements import Predictions, RecipePredictions
from edgedistill.documents.reading import read_report, require, schema
from edgedistill.documents.report import BenchmarkAnswer, ExportDocument, Report
from edgedistill.errors import UsageError
from edgedistill.prediction.predict import catalogue, predict
from edgedistill.recipe.benchmark import Benchmark
from edgedistill.recipe.export import Quantize
from tests.conftest import documents
from tests.conftest import edgedistill as command
from tests.helpers.predicting import convolutions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Finished = tuple[Path, dict[str, Any]]
    Key = tuple[int | str, ...]


def optional(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is NotRequired


OPTIONAL = {
    key
    for module in (answers, artifacts, measurements, reports)
    for _, shape in inspect.getmembers(module, is_typeddict)
    for key, kind in get_type_hints(shape, include_extras=True).items()
    if optional(kind)
}
"""Fields that may be absent somewhere."""
OPEN = ("producer", "packages", "companions", "facts", "quality_by_runtime", "versus_teacher_by_runtime", "not_for")
"""Keyed by names that are not ours."""
QUICK = Benchmark.model_validate({"rounds": 2, "min_queries": 64, "min_duration_s": 0.01, "warmup_s": 0.01})


def exact(shape: Any, document: object) -> None:
    """Every field has its type, and none is unknown."""
    TypeAdapter(list[shape], config=ConfigDict(extra="forbid")).validate_python([document], strict=True)


def test_a_report_is_what_its_type_says(finished: Finished) -> None:
    exact(Report, json.loads((finished[0] / "report.json").read_text(encoding="utf-8")))
    (predictions,) = finished[0].glob("stages/benchmark/*/predictions.json")
    exact(RecipePredictions, json.loads(predictions.read_text(encoding="utf-8")))


def test_an_export_is_what_its_type_says(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    samples = {"x": np.random.default_rng(0).standard_normal((64, 3, 4)).astype(np.float32)}
    edgedistill.export(
        net,
        samples,
        tmp_path / "out",
        to=["onnx"],
        precisions=["fp32", "int8"],
        calibration=samples,
        quantize=Quantize(max_drop=0.0),
        benchmark=QUICK,
    )
    document = json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))
    assert "measurements" in document
    exact(ExportDocument, document)


def test_a_benchmark_is_what_its_type_says(finished: Finished) -> None:
    files = sorted((finished[0] / "bundle" / "artifacts").glob("*.onnx"))
    quick = ("--preset", "quick", "--rounds", "2", "--profile", "3", "--sustained", "0.001", "--json")
    for more in ((), ("--against", str(files[0]))):
        exact(BenchmarkAnswer, documents(command("benchmark", *files, *quick, *more)))


def test_predictions_are_what_their_type_says(tmp_path: Path) -> None:
    path = convolutions(tmp_path / "n.onnx", 64, size=112)
    exact(Predictions, predict(path, ["rpi-4b", "cortex-m4-stm32l4r5"], predictor="graph", budget_ms=1.0))
    for one in catalogue():
        exact(answers.SimulatedDevice, one)


def one_of_each(document: object, path: Key = (), seen: set[Key] | None = None) -> Iterator[Key]:
    """Every place in a document; of those in lists that are alike, the first."""
    met: set[Key] = set() if seen is None else seen
    alike = tuple("[]" if isinstance(part, int) else part for part in path)
    if path and alike not in met:
        met.add(alike)
        yield path
    inside: list[tuple[int | str, object]] = []
    if isinstance(document, dict):
        inside = list(document.items())
    elif isinstance(document, list):
        inside = list(enumerate(document))
    for part, value in inside:
        yield from one_of_each(value, (*path, part), met)


def told(path: Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


@pytest.fixture(scope="module")
def whole(finished: Finished) -> tuple[Any, list[Key]]:
    """A report with a prediction, small, and every place in it."""
    document = copy.deepcopy(finished[1]["report"])
    document["measurements"] = document["measurements"][:1]
    kept = [a for a in document["artifacts"] if a["id"] == document["measurements"][0]["artifact"]]
    document["artifacts"] = [*kept, *[a for a in document["artifacts"] if a["candidates"]][:1]]
    return document, list(one_of_each(document))


def without(document: Any, path: Key) -> tuple[Any, Any]:
    """A copy, and in it what holds the place."""
    copied = copy.deepcopy(document)
    holder = copied
    for part in path[:-1]:
        holder = holder[part]
    return copied, holder


def refusal(document: object, path: Path) -> UsageError | None:
    try:
        require(document, Report, path, "make it again")
    except UsageError as error:
        return error
    return None


def test_each_field_that_is_missing_is_named(whole: tuple[Any, list[Key]], tmp_path: Path) -> None:
    document, places = whole
    dropped = 0
    for path in places:
        last = path[-1]
        if isinstance(last, int) or any(part in OPEN for part in path[-2:-1]) or "producer" in path or "facts" in path:
            continue
        copied, holder = without(document, path)
        del holder[last]
        error = refusal(copied, tmp_path)
        if error is None:
            assert last in OPTIONAL, told(path)
            continue
        assert error.where == f"{tmp_path}, key {told(path)}"
        dropped += 1
    assert dropped > 100


def test_each_field_of_another_type_is_named(whole: tuple[Any, list[Key]], tmp_path: Path) -> None:
    document, places = whole
    changed = 0
    for path in places:
        if "producer" in path[:-1] or "facts" in path[:-1]:
            continue
        copied, holder = without(document, path)
        holder[path[-1]] = "wrong" if isinstance(holder[path[-1]], dict | list) else ["wrong"]
        error = refusal(copied, tmp_path)
        assert error is not None, told(path)
        assert error.where == f"{tmp_path}, key {told(path)}"
        assert "wrong" in error.got
        changed += 1
    assert changed > 150


@pytest.mark.parametrize("verb", ["gate", "report"])
def test_a_report_with_a_missing_field_is_a_usage_error(
    verb: str, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "report.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    (student, *_) = [n for n, one in enumerate(document["artifacts"]) if one["model"] == "student"]
    place, field = (f"artifacts[{student}]", "versus_teacher") if verb == "gate" else ("models[0]", "quality")
    del (document["artifacts"][student] if verb == "gate" else document["models"][0])[field]["ci95"]
    path.write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "policy.yaml").write_text("{quality: {max_drop: 0.9}}", encoding="utf-8")
    arguments = [str(path), "--policy", str(tmp_path / "policy.yaml")] if verb == "gate" else [str(copied)]
    assert main([verb, *arguments]) == 2
    assert f"{place}.{field}.ci95" in capsys.readouterr().err


def test_a_gate_asks_of_a_report_only_what_its_checks_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report as the contract has it, cut down to what a size check reads."""
    artifact = {"id": "student-onnx-fp32", "model": "student", "format": "onnx", "precision": "fp32", "size_bytes": 10}
    document = {"schema": "edgedistill.report/1", "models": [], "artifacts": [artifact], "measurements": []}
    (tmp_path / "report.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "policy.yaml").write_text("{size: {max_bytes: 20}, parity: false}", encoding="utf-8")
    arguments = [str(tmp_path / "report.json"), "--policy", str(tmp_path / "policy.yaml")]
    assert main(["gate", *arguments]) == 0
    artifact["size_bytes"] = "ten"
    (tmp_path / "report.json").write_text(json.dumps(document), encoding="utf-8")
    assert main(["gate", *arguments]) == 2
    assert "artifacts[0].size_bytes" in capsys.readouterr().err


def test_what_a_later_version_adds_stays(copied: Path) -> None:
    path = copied / "report.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["headline"] = "good"
    document["measurements"][0]["energy_j"] = 1.0
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_report(path) == document


def test_what_was_added_later_may_be_absent(copied: Path) -> None:
    path = copied / "report.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["recommendations"], document["refused"], document["artifacts"][0]["candidates"]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert main(["report", str(copied)]) == 0


def test_the_schema_names_every_field_of_a_report() -> None:
    found: Any = schema()
    assert found["title"] == "Report"
    assert set(found["properties"]) == set(Report.__annotations__)
    assert set(found["properties"]) - set(found["required"]) == {"refused", "recommendations"}
    assert json.loads(json.dumps(found)) == found
