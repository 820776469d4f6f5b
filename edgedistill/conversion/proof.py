"""A file in every runtime that opens it, held against its model: how far it departs, and who must not run it.

One way, with a recipe and without.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgedistill.artifacts.running import compute_all, disagreements, matched, subjects
from edgedistill.data.on_disk import save_npz
from edgedistill.errors import EdgeDistillError, ModelError
from edgedistill.parity.compare import compare_outputs, keep_sample, worst
from edgedistill.plugins import load_exporter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from edgedistill.models.reference import Reference
    from edgedistill.parity.compare import Parity
    from edgedistill.recipe.export import ParitySettings
    from edgedistill.types import Array, Artifact


@dataclass(frozen=True)
class Answer:
    """What a runtime made of a file.

    Attributes:
        runtime: the agent's name of it.
        outputs: by the model's names, (samples, ...).
        parity: their departure from the model's.
    """

    runtime: str
    outputs: Mapping[str, Array]
    parity: Parity


@dataclass(frozen=True)
class Proof:
    """A file in its runtimes.

    Attributes:
        artifact: the file.
        answers: of the runtimes that it is for, at least one.
        refused: the runtimes that it is not for, and why.
        apart: answers of those among them that compute it, but not as the format's reference runtime does.
    """

    artifact: Artifact
    answers: tuple[Answer, ...]
    refused: Mapping[str, str]
    apart: tuple[Answer, ...] = ()

    @property
    def speaks(self) -> Answer:
        """The answer that counts: one that fails, else the farthest."""
        return self.answers[[a.parity for a in self.answers].index(worst([a.parity for a in self.answers]))]

    @property
    def notes(self) -> list[str]:
        """The refusals in words."""
        return [f"not for {runtime}: {why}" for runtime, why in self.refused.items()]


def prove(
    reference: Reference,
    artifact: Artifact,
    tolerance: ParitySettings,
    folder: Path,
    refused: Mapping[str, str],
) -> Proof:
    """Run a file in every runtime of its format over the reference's samples, and compare all outputs with its own.

    Args:
        reference: the model, with samples and what it gives for them.
        artifact: made of it.
        tolerance: how far it may depart.
        folder: for samples and outputs on their way.
        refused: runtimes that are known not to be for the file, and why: they are not asked.

    Raises:
        ModelError: no runtime runs it.
    """
    found, failed = _computed(reference, artifact, folder, refused)
    told = {**refused, **failed, **disagreements(artifact, found)}
    told = {runtime: why.removeprefix(f"not for {runtime}: ") for runtime, why in told.items()}
    every = [_answer(reference, artifact, tolerance, runtime, outputs) for runtime, outputs in found.items()]
    answers, apart = ([one for one in every if (one.runtime in told) is left] for left in (False, True))
    proof = Proof(artifact, tuple(answers), told, tuple(apart))
    return proof if answers else _refuse(proof)


def unsupported(artifact: Artifact) -> dict[str, str]:
    """Runtimes that do not open the file, and why."""
    checks = load_exporter(artifact.format).check_support(artifact)
    return {check.id.rsplit(":", 1)[1]: check.reason for check in checks if check.state != "pass"}


def _computed(
    reference: Reference, artifact: Artifact, folder: Path, refused: Mapping[str, str]
) -> tuple[dict[str, dict[str, Array]], dict[str, str]]:
    """Outputs by runtime, under the file's names; and the runtimes that fail on the samples."""
    outputs: dict[str, dict[str, Array]] = {}
    failed: dict[str, str] = {}
    with _samples(reference, folder) as inputs:
        for subject in subjects([artifact]):
            if subject.runtime not in refused:
                try:
                    outputs[subject.runtime] = compute_all(subject, inputs, folder / ".outputs.npz")
                except EdgeDistillError as error:
                    failed[subject.runtime] = error.message
    (folder / ".outputs.npz").unlink(missing_ok=True)
    return outputs, failed


def keep_worst(reference: Reference, answer: Answer, path: Path, name: str) -> Answer:
    """Write the sample on which an answer is farthest, as the file took it; the answer, with `name` for that file."""
    keep_sample(path, answer.parity.worst_sample, reference.inputs, reference.expected, answer.outputs)
    return replace(answer, parity=replace(answer.parity, worst_sample_file=name))


@contextmanager
def _samples(reference: Reference, folder: Path) -> Iterator[Path]:
    path = folder / ".inputs.npz"
    save_npz(path, dict(reference.inputs))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _answer(
    reference: Reference, artifact: Artifact, tolerance: ParitySettings, runtime: str, found: Mapping[str, Array]
) -> Answer:
    outputs = matched(found, tuple(reference.expected))
    parity = compare_outputs(
        reference.expected, outputs, artifact.precision, tolerance, name=reference.name, runtime=runtime
    )
    return Answer(runtime, outputs, parity)


def _refuse(proof: Proof) -> Proof:
    artifact, told = proof.artifact, "; ".join(proof.notes)
    raise ModelError(
        f"no runtime runs {artifact.path.name}: {told}",
        where=artifact.path.name,
        expected=f"a file that one of {', '.join(load_exporter(artifact.format).RUNTIMES)} runs",
        got=told,
        fix=f"leave {artifact.format} out of --to",
    )
