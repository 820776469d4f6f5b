"""What stages leave for each other: how their files are written and read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.artifacts.metadata import Origin, embedded
from edgedistill.artifacts.running import disagreements, refusals
from edgedistill.errors import ArtifactError
from edgedistill.plugins import load_exporter
from edgedistill.release import bundle as release
from edgedistill.types import Artifact, Json

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from edgedistill.data.splits import Data
    from edgedistill.runs import Stage


@dataclass(frozen=True)
class Files:
    """All artifacts of a run: exported, quantised from these, made of the student that was trained with its rounding.

    A trained file takes the place of the calibrated one of the same id.
    """

    exported: Stage
    quantized: Stage
    retrained: Stage
    requantized: Stage

    @property
    def digests(self) -> list[str]:
        """Of all four stages."""
        return [s.digest for s in (self.exported, self.quantized, self.retrained, self.requantized)]

    @property
    def trained(self) -> bool:
        """Whether there is a student trained with its rounding."""
        return bool(read_json(self.retrained.path / "plan.json")["use"])

    def artifacts(self) -> list[Artifact]:
        """The teacher's and the student's, fp32 first."""
        stages = (self.exported, self.quantized, self.requantized)
        return list({artifact.id: artifact for stage in stages for artifact in read_artifacts(stage)}.values())

    def choices(self) -> list[Json]:
        """The candidates of every quantised artifact."""
        rows = [row for s in (self.quantized, self.requantized) for row in read_json(s.path / "candidates.json")]
        return list({row["artifact"]: row for row in rows}.values())


def load_data(stage: Stage) -> Data:
    """The splits of the data stage, on disk until they are used."""
    from edgedistill.data.splits import load

    return load(stage.path)


def keep(module: nn.Module, name: str, data: Data, out: Path) -> None:
    """Weights, facts, and the logits and quality over the evaluation split."""
    from edgedistill.models.facts import facts, save_facts
    from edgedistill.models.weights import save_weights
    from edgedistill.tasks.classification import quality
    from edgedistill.teachers.module import logits_of

    save_weights(module, out / f"{name}.safetensors")
    save_facts(facts(module, data.sample_shape), out / "facts.json")
    logits = logits_of(module, data.eval_inputs).numpy()
    np.save(out / f"{name}.eval_logits.npy", logits)
    write_json(quality(logits, np.asarray(data.eval_labels)), out / f"{name}.quality.json")


def model_json(name: str, role: str, trained: Stage, described: Stage) -> Json:
    """A torch model as the report lists it."""
    facts = read_json(described.path / "facts.json")
    document = {"id": name, "role": role, **facts, "quality": read_json(trained.path / f"{name}.quality.json")}
    others = [read_json(path)["value"] for path in sorted(trained.path.glob(f"{name}.seed-*.quality.json"))]
    if others:
        values = [document["quality"]["value"], *others]
        document["seeds"] = {"n": len(values), "values": values, "mean": mean(values), "std": stdev(values)}
    return document


def write_artifacts(artifacts: list[Artifact], out: Path, origin: Origin | None = None) -> None:
    """List the artifacts, after opening each as its runtime would: half a file goes no further.

    Before that each gets its metadata, inside and beside it.
    """
    documents = []
    for bare in artifacts:
        artifact, exporter = embedded(bare, origin or Origin()), load_exporter(bare.format)
        known = refusals(artifact)
        for check in exporter.check_support(artifact):
            if check.state != "pass" and (
                check.id.rsplit(":", 1)[1] not in known or set(known) >= set(exporter.RUNTIMES)
            ):
                raise ArtifactError(
                    check.reason,
                    where=str(artifact.path),
                    expected=f"a file that its runtime opens ({check.id})",
                    got=check.reason,
                    fix="leave the format out of export.formats; --debug and RUN/logs show more",
                )
        macs = exporter.count_macs(artifact)
        documents.append(
            {**artifact.to_json(out), "macs": macs.total, "integer_mac_share": macs.integer_share, "unsupported": known}
        )
    write_json(documents, out / "artifacts.json")


def read_artifacts(stage: Stage) -> list[Artifact]:
    """What `write_artifacts` listed."""
    return [Artifact.from_json(document, stage.path) for document in read_json(stage.path / "artifacts.json")]


def apart_from_reference(artifacts: list[Artifact], folder: Path) -> dict[str, dict[str, str]]:
    """Artifact -> runtime -> how it departs from the format's reference runtime, over the outputs kept in a folder."""
    found = {}
    for artifact in artifacts:
        outputs = {}
        for runtime in load_exporter(artifact.format).RUNTIMES:
            kept = folder / f"{artifact.id}.{runtime}.npz"
            if kept.is_file():
                with np.load(kept, allow_pickle=False) as archive:
                    outputs[runtime] = {name: archive[name] for name in archive.files}
        apart = disagreements(artifact, outputs)
        if apart:
            found[artifact.id] = apart
    return found


def artifact_json(artifact: Artifact, answers: list[Json], apart: dict[str, str], root: Path) -> Json:
    """An artifact as the report lists it: the runtime that departs farthest speaks for it.

    `apart`: runtimes that depart from the format's reference runtime, and how.
    """
    own = [answer for answer in answers if answer["artifact"] == artifact.id]

    def standing(answer: Json) -> tuple[bool, float, float]:
        departure = answer["parity"]["max_abs"]  # null: infinite
        far = float("inf") if departure is None else departure
        return answer["parity"]["state"] == "pass", answer["quality"]["value"], -far

    worst = min(own, key=standing)
    listed = read_json(artifact.path.parents[1] / "artifacts.json")
    counted = next(document for document in listed if document["id"] == artifact.id)
    path = (
        f"bundle/{release.path_in_bundle(artifact)}"
        if artifact.model == "student"
        else artifact.path.relative_to(root).as_posix()
    )
    return {
        **artifact.to_json(artifact.path.parent),
        "path": path,
        "producer": dict(artifact.producer),
        "macs": counted["macs"],
        "integer_mac_share": counted["integer_mac_share"],
        "quality": worst["quality"],
        "quality_by_runtime": {answer["runtime"]: answer["quality"] for answer in own},
        "versus_teacher": worst["versus_teacher"],
        "versus_teacher_by_runtime": {answer["runtime"]: answer["versus_teacher"] for answer in own},
        "parity": worst["parity"],
        "parity_by_runtime": [answer["parity"] for answer in own],
        "not_for": {**counted["unsupported"], **apart},
        "notes": [f"not for {runtime}: {why}" for runtime, why in {**counted["unsupported"], **apart}.items()],
        "candidates": [],
    }


def write_json(document: Any, path: Path) -> None:
    """Plain JSON: NaN and infinity are refused."""
    path.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
