"""The report without its verdict, and its chart."""

from __future__ import annotations

from statistics import mean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.documents.artifacts import ArtifactDocument, RuntimeAnswer
    from edgedistill.documents.report import ModelDocument, Role
    from edgedistill.runs import Stage
    from edgedistill.stages.files import Listed
    from edgedistill.stages.work import Work
    from edgedistill.types import Json

NAME = "report"
READS = ("name", "seed", "distill.baseline")
SEES: tuple[str, ...] = ()
USES: tuple[Shelf, ...] = ()


def check(work: Work) -> None:
    """Nothing can be known before there are figures."""
    del work


def key(work: Work) -> Json:
    """Where and with what all was made, as far as that is the same tomorrow; and what draws."""
    from edgedistill.plugins import load_device
    from edgedistill.report.build import environment
    from edgedistill.tools import versions

    name = work.recipe.benchmark.device
    return {"environment": environment(load_device(name).describe(name)), "tools": versions(["matplotlib"])}


def make(
    work: Work,
    data: Stage,
    teacher: Stage,
    student: Stage,
    distilled: Stage,
    exported: Stage,
    quantized: Stage,
    retrained: Stage,
    requantized: Stage,
    proved: Stage,
    measured: Stage,
    *,
    out: Path,
) -> None:
    """Put the stages' facts together."""
    from edgedistill.report.build import build
    from edgedistill.report.plots import quality_against_latency
    from edgedistill.stages.files import all_choices, all_listed, load_data
    from edgedistill.stages.models import ROUNDED, STUDENT
    from edgedistill.storage import read_json, write_json

    models = [
        _model_json("teacher", "teacher", teacher, teacher),
        _model_json(STUDENT, "student", distilled, student),
    ]
    if work.recipe.distill.baseline:
        models.append(_model_json("student-labels-only", "baseline", distilled, student))
    if read_json(retrained.path / "plan.json")["use"]:
        models.append(_model_json(ROUNDED, "student", retrained, student))
    answers, refused = _answers(proved, work.root), read_json(proved.path / "refused.json")
    report = build(
        name=work.recipe.name,
        seed=work.recipe.seed,
        environment=work.known["environment"],
        models=models,
        artifacts=[
            _artifact_json(one, answers, refused.get(one.artifact.id, {}), work.root)
            for one in all_listed(exported, quantized, requantized)
        ],
        choices=all_choices(quantized, requantized),
        measurements=read_json(measured.path / "measurements.json"),
        predictions=read_json(measured.path / "predictions.json"),
        eval_samples=len(load_data(data).eval_labels),
    )
    write_json(report, out / "report.json")
    (out / "chart.svg").write_text(quality_against_latency(report), encoding="utf-8")


def _model_json(name: str, role: Role, trained: Stage, described: Stage) -> ModelDocument:
    """A torch model as the report lists it."""
    from edgedistill.storage import read_json

    facts = read_json(described.path / "facts.json")
    document: ModelDocument = {
        "id": name,
        "role": role,
        "parameters": facts["parameters"],
        "macs": facts["macs"],
        "quality": read_json(trained.path / f"{name}.quality.json"),
    }
    others = [read_json(path)["value"] for path in sorted(trained.path.glob(f"{name}.seed-*.quality.json"))]
    if others:
        values = [document["quality"]["value"], *others]
        document["seeds"] = {"n": len(values), "values": values, "mean": mean(values), "std": stdev(values)}
    return document


def _answers(proved: Stage, root: Path) -> list[RuntimeAnswer]:
    """The answers of the stage `parity`, the files of worst samples by their path in the run."""
    from edgedistill.storage import read_json

    answers: list[RuntimeAnswer] = read_json(proved.path / "parity.json")
    for answer in answers:
        file = proved.path / answer["parity"].get("worst_sample_file", "")
        answer["parity"]["worst_sample_file"] = file.relative_to(root).as_posix()
    return answers


def _artifact_json(
    listed: Listed, answers: Sequence[RuntimeAnswer], apart: Mapping[str, str], root: Path
) -> ArtifactDocument:
    """An artifact as the report lists it: the runtime that departs farthest speaks for it.

    `apart`: runtimes that depart from the format's reference runtime, or fail, and how.
    """
    artifact, facts = listed.artifact, listed.facts
    own = [answer for answer in answers if answer["artifact"] == artifact.id]
    worst = min(own, key=_standing)
    not_for = {**facts["unsupported"], **apart}
    return {
        **artifact.to_json(artifact.path.parent),
        "path": _path(listed, root),
        "producer": dict(artifact.producer),
        "macs": facts["macs"],
        "integer_mac_share": facts["integer_mac_share"],
        "quality": worst["quality"],
        "quality_by_runtime": {answer["runtime"]: answer["quality"] for answer in own},
        "versus_teacher": worst["versus_teacher"],
        "versus_teacher_by_runtime": {answer["runtime"]: answer["versus_teacher"] for answer in own},
        "parity": worst["parity"],
        "parity_by_runtime": [answer["parity"] for answer in own],
        "not_for": not_for,
        "notes": [f"not for {runtime}: {why}" for runtime, why in not_for.items()],
        "candidates": [],
    }


def _standing(answer: RuntimeAnswer) -> tuple[bool, float, float]:
    departure = answer["parity"]["max_abs"]  # null: infinite
    far = float("inf") if departure is None else departure
    return answer["parity"]["state"] == "pass", answer["quality"]["value"], -far


def _path(listed: Listed, root: Path) -> str:
    """Where people find the file: the student's in the bundle."""
    from edgedistill.release.bundle import path_in_bundle

    artifact = listed.artifact
    if artifact.model == "student":
        return f"bundle/{path_in_bundle(artifact)}"
    return artifact.path.relative_to(root).as_posix()
