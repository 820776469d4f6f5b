"""Every artifact in every runtime over the whole evaluation split: departure, quality, difference to the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.conversion.proof import Answer, Proof
    from edgedistill.data.splits import Data
    from edgedistill.documents.artifacts import RuntimeAnswer
    from edgedistill.models.reference import Reference
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.types import Array, Artifact, Json

NAME = "parity"
READS = ("parity", "export.fold")
SEES: tuple[str, ...] = ()
USES: tuple[Shelf, ...] = ("exporters", "devices")


def check(work: Work) -> None:
    """Nothing can be known before there are files."""
    del work


def key(work: Work) -> Json:
    """Versions of what opens the files."""
    from edgedistill.stages.keys import runtimes_tools

    return {"runtimes": runtimes_tools(work)}


def make(
    work: Work,
    data: Stage,
    teacher: Stage,
    distilled: Stage,
    exported: Stage,
    quantized: Stage,
    retrained: Stage,
    requantized: Stage,
    *,
    out: Path,
) -> None:
    """Prove each file against the model that it was made of, and judge its answers."""
    from edgedistill.conversion.proof import prove
    from edgedistill.stages.files import all_artifacts, load_data
    from edgedistill.storage import write_json

    splits = load_data(data)
    logits = _logits(teacher, distilled, retrained)
    artifacts = all_artifacts(exported, quantized, requantized)
    answers: list[RuntimeAnswer] = []
    refused: dict[str, dict[str, str]] = {}
    for number, artifact in enumerate(artifacts):
        work.events.step(f"check {artifact.id}", number, len(artifacts))
        reference = _reference(work, splits, artifact, logits)
        proof = prove(reference, artifact, work.recipe.parity, out, {})
        answers += _judged(proof, reference, splits, logits["teacher"], out)
        refused |= {artifact.id: dict(proof.refused)} if proof.refused else {}
    write_json(refused, out / "refused.json")
    write_json(answers, out / "parity.json")


def _logits(teacher: Stage, distilled: Stage, retrained: Stage) -> dict[str, Array]:
    """What each model gives for the evaluation split."""
    from edgedistill.stages.models import ROUNDED, STUDENT, kept_logits
    from edgedistill.storage import read_json

    found = {"teacher": kept_logits(teacher, "teacher"), STUDENT: kept_logits(distilled, STUDENT)}
    if read_json(retrained.path / "plan.json")["use"]:
        found[ROUNDED] = kept_logits(retrained, ROUNDED)
    return found


def _reference(work: Work, splits: Data, artifact: Artifact, logits: dict[str, Array]) -> Reference:
    """The model that a file was made of, as the file takes and gives it."""
    from edgedistill.models.folding import given_by
    from edgedistill.models.reference import Reference
    from edgedistill.stages.samples import fed

    name, signature = str(artifact.producer.get("reference", artifact.model)), artifact.signature
    inputs = {signature.inputs[0].name: fed(work, splits, splits.eval_inputs)}
    expected = {signature.outputs[0].name: given_by(work.recipe.export.fold, logits[name])}
    return Reference(None, name, signature, inputs, expected)


def _judged(proof: Proof, reference: Reference, splits: Data, teachers: Array, out: Path) -> list[RuntimeAnswer]:
    """The answers that count; outputs and the farthest sample of each runtime are kept beside them."""
    labels = np.asarray(splits.eval_labels)
    kept = [_kept(proof.artifact.id, answer, reference, out) for answer in (*proof.answers, *proof.apart)]
    return [_answer_json(proof.artifact.id, answer, labels, teachers) for answer in kept[: len(proof.answers)]]


def _kept(artifact: str, answer: Answer, reference: Reference, out: Path) -> Answer:
    from edgedistill.conversion.proof import keep_worst

    name = f"{artifact}.{answer.runtime}.npz"
    np.savez(out / name, **dict(answer.outputs))
    return keep_worst(reference, answer, out / "worst" / name, f"worst/{name}")


def _answer_json(artifact: str, answer: Answer, labels: Array, teachers: Array) -> RuntimeAnswer:
    from edgedistill.statistics.intervals import paired_difference
    from edgedistill.tasks.classification import correct, quality

    given = next(iter(answer.outputs.values()))
    versus = paired_difference(correct(given, labels), correct(teachers, labels))
    return {
        "artifact": artifact,
        "runtime": answer.runtime,
        "parity": answer.parity.to_json(),
        "quality": {**quality(given, labels), "runtime": answer.runtime},
        "versus_teacher": {
            "difference": versus.value,
            "ci95": [versus.low, versus.high],
            "n": versus.n,
            "method": "paired, Newcombe's hybrid score interval",
        },
    }
