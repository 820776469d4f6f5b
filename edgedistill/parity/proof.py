"""Do a model and a file compute the same thing, on which sample least, and from which tensor on do they not?"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.artifacts.running import Subject, compute_all, generated, matched, subjects, subjects_on
from edgedistill.errors import UsageError
from edgedistill.models.reference import Reference
from edgedistill.parity.compare import ARTIFACT, REFERENCE, Parity, compare_outputs, keep_sample, worst
from edgedistill.parity.departure import Limits, departure
from edgedistill.parity.layers import align
from edgedistill.parity.tensors import trace_file, trace_program
from edgedistill.types import Array, Artifact, Precision, TracedTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgedistill.documents.answers import NotedWay
    from edgedistill.recipe.document import ParitySettings

_INT8_DB = 15.0
"""What every tensor of an 8-bit file should reach, its own standard deviation over the rms error."""


@dataclass(frozen=True)
class Proof:
    """A file held against its reference over some samples.

    Attributes:
        reference: a torch program, or a file.
        subject: the file in the runtime that counts, the farthest.
        precision: the lower one of both.
        parity: what was found.
        inputs: samples by input name.
        expected: the reference's outputs for them.
        found: the file's, under the reference's names.
    """

    reference: Reference | Artifact
    subject: Subject
    precision: Precision
    parity: Parity
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    found: Mapping[str, Array]

    def kept(self, path: Path) -> Proof:
        """Keep the worst sample with both models' outputs as .npz, and say where."""
        keep_sample(path, self.parity.worst_sample, self.inputs, self.expected, self.found)
        return replace(self, parity=replace(self.parity, worst_sample_file=str(path)))

    def layers(self, tolerance: ParitySettings, min_snr_db: float | None = None) -> NotedWay:
        """The worst sample's way through both models.

        Args:
            tolerance: the recipe's; fp32 tensors are held against its `fp32.max_relative`.
            min_snr_db: hold every tensor against this instead.

        Returns:
            `layers`, `layers_absent`, `first_departure`, `layers_note` (where the file gives other outputs as shipped).

        Raises:
            EdgeDistillError: one of them cannot show its tensors.
        """
        row = self.parity.worst_sample
        sample = {name: values[row : row + 1] for name, values in self.inputs.items()}
        right = self._reference_tensors(sample)
        given = trace_file(self.subject.artifact, self.subject.runtime, sample)
        limits = _limits(self.precision, tolerance, min_snr_db)
        outputs = matched({t.output: t for t in given if t.output}, [t.output for t in right if t.output])
        names = {name: tensor.output for name, tensor in outputs.items()}
        alike = isinstance(self.reference, Artifact) and self.reference.format == self.subject.artifact.format
        layers = align(right, given, names, limits, same_format=alike)
        return {**layers.to_json(), "layers_note": self._note(outputs, limits)}

    def _reference_tensors(self, sample: Mapping[str, Array]) -> list[TracedTensor]:
        if isinstance(self.reference, Artifact):
            return trace_file(self.reference, subjects([self.reference])[0].runtime, sample)
        batch = self.reference.signature.inputs[0].shape[0]
        graph = self.reference.model.module
        rows = None if isinstance(batch, str) else batch
        return trace_program(graph, list(sample.values()), list(self.expected), rows)

    def _note(self, outputs: Mapping[str, TracedTensor], limits: Limits) -> str:
        """A file that computes something else when its kernels are fused has a fault that no tensor shows."""
        row = self.parity.worst_sample
        for name, tensor in outputs.items():
            shipped = self.found.get(name, np.zeros((0,)))[row : row + 1]
            if shipped.size == tensor.value.size and not limits.met(departure(tensor.value, shipped)):
                return (
                    f"operator by operator the file gives another {name} than as it is run "
                    f"({departure(tensor.value, shipped).max_relative:.1e} of its magnitude): "
                    f"look at the kernels that {self.subject.runtime} fuses"
                )
        return ""


def prove(
    reference: Reference | Artifact,
    candidate: Artifact,
    given: Mapping[str, Array] | None,
    tolerance: ParitySettings,
    device: str = "cpu",
) -> Proof:
    """Compare a file with its reference over the same model-ready samples, in every runtime; the farthest counts.

    The reference is computed here (a file in the first of its runtimes), the candidate on `device`; the tolerance is
    that of the lower precision.

    Args:
        reference: what is right.
        candidate: the file that is held against it.
        given: samples by input name; seeded normal ones if None.
        tolerance: what passes.
        device: where the candidate runs.

    Raises:
        UsageError: the samples are not those of the reference, or not finite.
        ArtifactError: a runtime refuses a file, or the samples.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, expected = _right(reference, given, Path(folder))
        samples = Path(folder) / "samples.npz"
        np.savez(samples, **dict(inputs))
        own = reference.precision if isinstance(reference, Artifact) else Precision.FP32
        precision = max((own, candidate.precision), key=lambda p: p is not Precision.FP32)
        name = reference.path.name if isinstance(reference, Artifact) else reference.name
        proofs = []
        for subject in subjects_on(device, [candidate]):
            found = matched(compute_all(subject, samples, Path(folder) / "candidate.npz", device), list(expected))
            parity = compare_outputs(expected, found, precision, tolerance, name=name, runtime=subject.runtime)
            proofs.append(Proof(reference, subject, precision, parity, inputs, expected, found))
    farthest = worst([proof.parity for proof in proofs])
    return next(proof for proof in proofs if proof.parity is farthest)


def read_samples(arrays: Mapping[str, Array], where: str) -> dict[str, Array]:
    """Samples of an .npz; of one that keeps a worst sample, the inputs alone.

    Raises:
        UsageError: a sample holds NaN or infinity.
    """
    inputs = {name: array for name, array in arrays.items() if not name.startswith((REFERENCE, ARTIFACT))}
    for name, array in inputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UsageError(
                f"the samples of {name} hold NaN or infinity",
                where=f"{where}, array {name}",
                expected="finite numbers",
                got=f"{int((~np.isfinite(array)).sum())} values that are none",
                fix="give samples as the model gets them in use",
            )
    return inputs


def _right(
    reference: Reference | Artifact, given: Mapping[str, Array] | None, folder: Path
) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
    """Samples in the order of the reference's inputs, and its outputs for them."""
    if isinstance(reference, Reference):
        return reference.inputs, reference.expected
    samples = folder / "inputs.npz"
    seeded = generated(reference, samples)
    with np.load(seeded, allow_pickle=False) as archive:
        made = {name: archive[name] for name in archive.files}
    inputs = made if given is None else _ordered(given, list(made))
    np.savez(samples, **dict(inputs))
    return inputs, compute_all(subjects([reference])[0], samples, folder / "reference.npz")


def _ordered(given: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """Samples in the order of a file's inputs, whose names a converter may have put into longer ones.

    Raises:
        UsageError: they have other names.
    """
    if set(given) == set(names):
        return {name: given[name] for name in names}
    inside = {name: [key for key in given if key in name] for name in names}
    if len(given) != len(names) or _keys(inside.values()) != set(given):
        raise UsageError(
            "the samples are not those of the reference's inputs",
            where="--inputs",
            expected=f"arrays named {', '.join(names)}",
            got=", ".join(given) or "none",
            fix="name the arrays after the inputs",
        )
    return {keys[0]: given[keys[0]] for keys in inside.values()}


def _keys(inside: Iterable[list[str]]) -> set[str]:
    return {keys[0] for keys in inside if len(keys) == 1}


def _limits(precision: Precision, tolerance: ParitySettings, min_snr_db: float | None) -> Limits:
    if min_snr_db is not None or precision is not Precision.FP32:
        return Limits(min_snr_db=_INT8_DB if min_snr_db is None else min_snr_db)
    return Limits(tolerance.fp32.max_relative)
