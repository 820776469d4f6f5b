"""Run artifacts in their runtimes and compare what they compute."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edgedistill.agreeing import against_reference
from edgedistill.errors import ArtifactError, UsageError
from edgedistill.plugins import load_device, load_exporter
from edgedistill.types import Array, BenchmarkJob

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgedistill.types import Artifact


_T = TypeVar("_T")


@dataclass(frozen=True)
class Subject:
    """An artifact in one of the runtimes that open it."""

    artifact: Artifact
    runtime: str


def subjects(artifacts: Sequence[Artifact]) -> list[Subject]:
    """Every artifact in every runtime of its format that is installed here.

    A runtime that is known to get a file wrong is left out (`refusals`).

    Raises:
        ArtifactError: no runtime is left for an artifact.

    What will be compared, the artifacts of one runtime, stands side by side, so that it is measured so.
    """
    found = [
        Subject(artifact, runtime)
        for artifact in artifacts
        for runtime, module in load_exporter(artifact.format).RUNTIMES.items()
        if importlib.util.find_spec(module) is not None and runtime not in refusals(artifact)
    ]
    for artifact in artifacts:
        if refusals(artifact) and all(subject.artifact is not artifact for subject in found):
            told = "; ".join(f"{runtime}: {why}" for runtime, why in refusals(artifact).items())
            raise ArtifactError(
                f"no runtime here computes {artifact.path.name}",
                where=str(artifact.path),
                expected="a file that one of its runtimes computes right",
                got=told,
                fix="export the model again, in another precision or format",
            )
    return sorted(found, key=lambda subject: subject.runtime)


def refusals(artifact: Artifact) -> dict[str, str]:
    """Runtime -> why it must not be given this file, as far as its operators tell; empty for a file nobody can read."""
    tell = getattr(load_exporter(artifact.format), "refusals", None)
    try:
        return dict(tell(artifact)) if tell is not None else {}
    except Exception:  # noqa: BLE001 - damaged files: each library has errors of its own, and opening tells better
        return {}


def disagreements(artifact: Artifact, outputs: Mapping[str, Mapping[str, Array]]) -> dict[str, str]:
    """Runtime -> how its outputs depart from those of the format's reference runtime; see agreeing.py.

    `outputs`: runtime -> output name -> (samples, ...). Empty for formats that one runtime opens.
    """
    exporter = load_exporter(artifact.format)
    reference = getattr(exporter, "REFERENCE", None)
    if reference is None or len(outputs) < 2:  # noqa: PLR2004 - two to compare
        return {}
    return against_reference(outputs, reference, exporter.output_steps(artifact.path), artifact.precision)  # type: ignore[attr-defined]  # optional verbs


def subjects_on(device: str, artifacts: Sequence[Artifact]) -> list[Subject]:
    """Those subjects whose runtime the device has: all, unless its plug-in names its RUNTIMES.

    Raises:
        UsageError: the device has none for an artifact.
    """
    known: Sequence[str] | None = getattr(load_device(device), "RUNTIMES", None)
    found = subjects(artifacts)
    there = [subject for subject in found if known is None or subject.runtime in known]
    for artifact in artifacts:
        if known is not None and all(subject.artifact is not artifact for subject in there):
            raise UsageError(
                f"{device} has no runtime for {artifact.path.name}",
                where=str(artifact.path),
                expected=f"a file for one of {', '.join(known)}, which must be installed here too",
                got=artifact.format,
                fix="export another format, or choose another device",
            )
    return there


def compute(subject: Subject, inputs: Path, outputs: Path, device: str = "cpu") -> Array:
    """The artifact's first output for every sample of an .npz, as float32 (n, ...)."""
    job = BenchmarkJob(subject.artifact.path, subject.runtime, inputs=inputs, outputs=outputs, timeout_s=3600)
    load_device(device).run(device, job)
    with np.load(outputs, allow_pickle=False) as archive:
        return np.asarray(archive[archive.files[0]])


def compute_all(subject: Subject, inputs: Path, outputs: Path, device: str = "cpu") -> dict[str, Array]:
    """All outputs of the artifact for every sample of an .npz, by the file's names, in the file's order."""
    job = BenchmarkJob(subject.artifact.path, subject.runtime, inputs=inputs, outputs=outputs, timeout_s=3600)
    document = load_device(device).run(device, job).document
    with np.load(outputs, allow_pickle=False) as archive:
        return {one["name"]: np.asarray(archive[one["name"]]) for one in document["outputs"]}


def matched(found: Mapping[str, _T], names: Sequence[str]) -> dict[str, _T]:
    """Outputs under the names of the model: by name where the file kept them, else by their order."""
    if set(names) <= set(found):
        return {name: found[name] for name in names}
    inside = [[key for key in found if name in key] for name in names]  # "serving_default_logits_output"
    unique = [keys[0] for keys in inside if len(keys) == 1]
    keys = unique if len(set(unique)) == len(names) else list(found)
    return {name: found[key] for name, key in zip(names, keys, strict=False)}


def generated(artifact: Artifact, path: Path, count: int = 32) -> Path:
    """Write `count` seeded samples of the artifact's input shapes as .npz: standard normal, integers 0 and 1."""
    subject = subjects([artifact])[0]
    job = BenchmarkJob(artifact.path, subject.runtime)
    specs = load_device("cpu").run("cpu", job).document["inputs"]
    rng = np.random.default_rng(0)
    arrays = {}
    for spec in specs:
        shape = (count, *spec["shape"][1:])
        plain = "quantization" not in spec and np.dtype(spec["dtype"]).kind in "iub"
        values = rng.integers(0, 2, shape) if plain else rng.standard_normal(shape).astype(np.float32)
        arrays[spec["name"]] = values
    np.savez(path, **arrays)
    return path
