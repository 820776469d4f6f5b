"""What a bundle says of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from edgedistill.artifacts.metadata import beside
from edgedistill.cli.main import main
from edgedistill.documents.reading import read_report
from edgedistill.prediction.predict import predict
from edgedistill.release.bundle import _metadata
from edgedistill.types import Artifact

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.documents.report import Report


@pytest.fixture
def report(copied: Path) -> Report:
    return read_report(copied / "report.json")


def released(run: Path, report: Report) -> list[Artifact]:
    return [Artifact.from_json(one, run) for one in report["artifacts"] if one["path"].startswith("bundle/")]


def metadata(run: Path, report: Report) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(_metadata(released(run, report), report))
    return found


def test_predictions_are_no_runtimes_that_were_checked(copied: Path, report: Report) -> None:
    before = metadata(copied, report)
    (artifact,) = [one for one in released(copied, report) if one.id == "student-onnx-fp32"]
    (made,) = predict(artifact.path, ["rpi-4b"], predictor="graph")["predictions"]
    made["artifact"] = artifact.id
    report["measurements"].append(made)
    assert metadata(copied, report) == before
    assert before["artifacts"][0]["runtimes_checked"]


def test_the_licence_is_the_files_own(copied: Path, report: Report) -> None:
    assert metadata(copied, report)["licence"] == ""
    told = beside(released(copied, report)[0].path)
    document = json.loads(told.read_text(encoding="utf-8"))
    told.write_text(json.dumps({**document, "licence": "MIT"}), encoding="utf-8")
    assert metadata(copied, report)["licence"] == "MIT"


def test_a_report_that_was_not_judged_makes_no_bundle(copied: Path, report: Report) -> None:
    report["gate"] = None
    with pytest.raises(ValueError, match="not judged"):
        _metadata(released(copied, report), report)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"path": 5}, "artifacts[0].files[0].path"),
        ({"sha256": ["wrong"]}, "artifacts[0].files[0].sha256"),
    ],
)
def test_metadata_of_another_type_is_a_usage_error(
    copied: Path, wrong: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "bundle" / "metadata.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["artifacts"][0]["files"][0] |= wrong
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert main(["verify", str(copied / "bundle")]) == 2
    assert told in capsys.readouterr().err
