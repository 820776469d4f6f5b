"""Put the stages' facts together as report.json (schema edgedistill.report/1)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edgedistill.conversion.recommendation import recommend, with_choice
from edgedistill.documents.report import REPORT_SCHEMA
from edgedistill.measurement.measure import ratio_of
from edgedistill.tasks import classification
from edgedistill.tools import versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.documents.artifacts import ArtifactDocument, ChoiceDocument
    from edgedistill.documents.measurements import Measured, RecipePredictions
    from edgedistill.documents.report import Environment, ModelDocument, Report
    from edgedistill.types import DeviceInfo

_PACKAGES = (
    "ai-edge-litert",
    "ai-edge-quantizer",
    "litert-torch",
    "nncf",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "tflite-runtime",
    "torch",
)


def environment(device: DeviceInfo) -> Environment:
    """Where and with what a report is made, as far as that does not change from minute to minute."""
    return {
        "edgedistill": importlib.metadata.version("edgedistill"),
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()}",
        "cpu": device.name,
        "cores": device.cores,
        "memory_bytes": device.memory_bytes,
        "packages": versions(_PACKAGES),
    }


def build(
    *,
    name: str,
    seed: int,
    environment: Environment,
    models: list[ModelDocument],
    artifacts: Sequence[ArtifactDocument],
    measurements: Sequence[Measured],
    choices: Sequence[ChoiceDocument],
    eval_samples: int,
    predictions: RecipePredictions | None = None,
) -> Report:
    """The report without its gate and the digest of the recipe, which the gate stage adds.

    `environment` is what that function gave.

    Adds each measurement's ratio to the teacher, notes on int8, and what to ship for each runtime.
    """
    artifacts = [with_choice(a, choices) for a in artifacts]
    predicted: RecipePredictions = predictions or {"predictions": [], "refused": []}
    compared = [_with_ratio(m, artifacts, measurements) for m in measurements]
    return {
        "schema": REPORT_SCHEMA,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe_sha256": "",
        "seed": seed,
        "environment": {**environment, "load_average_1min": round(os.getloadavg()[0], 2)},
        "task": {
            "kind": "classification",
            "metric": classification.METRIC,
            "higher_is_better": classification.HIGHER_IS_BETTER,
            "eval_samples": eval_samples,
        },
        "models": models,
        "artifacts": [{**a, "notes": [*a["notes"], *_notes(a, artifacts, compared)]} for a in artifacts],
        "measurements": [*compared, *predicted["predictions"]],
        "refused": predicted["refused"],
        "recommendations": recommend(artifacts, compared),
        "gate": None,
    }


def _with_ratio(
    measurement: Measured, artifacts: Sequence[ArtifactDocument], measurements: Sequence[Measured]
) -> Measured:
    by_id = {a["id"]: a for a in artifacts}
    own = by_id[measurement["artifact"]]
    for other in measurements:
        there = by_id[other["artifact"]]
        if (
            there["model"] == "teacher"
            and there["precision"] == "fp32"
            and there["format"] == own["format"]
            and other["runtime"] == measurement["runtime"]
        ):
            return {**measurement, "ratio_to_teacher": ratio_of(measurement, other)}
    return measurement


def _notes(
    artifact: ArtifactDocument, artifacts: Sequence[ArtifactDocument], measurements: Sequence[Measured]
) -> list[str]:
    """An int8 artifact that is slower or larger than its fp32 sibling is never passed over in silence."""
    if artifact["precision"] == "fp32":
        return []
    sibling = next(
        (
            a
            for a in artifacts
            if a["model"] == artifact["model"] and a["format"] == artifact["format"] and a["precision"] == "fp32"
        ),
        None,
    )
    if sibling is None:
        return []
    notes = []
    if artifact["size_bytes"] > sibling["size_bytes"]:
        notes.append(
            f"larger than fp32: {artifact['size_bytes']} against {sibling['size_bytes']} bytes; "
            "the graph outweighs the weights"
        )
    for measurement in (m for m in measurements if m["artifact"] == artifact["id"]):
        twin = next(
            (m for m in measurements if m["artifact"] == sibling["id"] and m["runtime"] == measurement["runtime"]),
            None,
        )
        if twin is None:
            continue
        rounds = ratio_of(measurement, twin)["rounds"]
        if min(rounds) > 1:
            notes.append(
                f"slower than fp32 in {measurement['runtime']} here: {min(rounds):.2f} to {max(rounds):.2f} x "
                f"over {len(rounds)} rounds; fp32 is the better choice on this host"
            )
    return notes
