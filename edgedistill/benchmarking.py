"""Measure artifacts on a device: fresh processes, interleaved, every benchmark of the shelf."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.parity import Parity, compare, worst
from edgedistill.plugins import load_benchmark, load_device, load_exporter, plugin_names
from edgedistill.types import Array, BenchmarkJob, BenchmarkResult, Json, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgedistill.recipe import Benchmark, ParitySettings
    from edgedistill.types import Artifact


@dataclass(frozen=True)
class Subject:
    """An artifact in one of the runtimes that open it."""

    artifact: Artifact
    runtime: str


def subjects(artifacts: Sequence[Artifact]) -> list[Subject]:
    """Every artifact in every runtime of its format that is installed here.

    What will be compared, the artifacts of one runtime, stands side by side, so that it is measured so.
    """
    found = [
        Subject(artifact, runtime)
        for artifact in artifacts
        for runtime, module in load_exporter(artifact.format).RUNTIMES.items()
        if importlib.util.find_spec(module) is not None
    ]
    return sorted(found, key=lambda subject: subject.runtime)


def compute(subject: Subject, inputs: Path, outputs: Path, device: str = "cpu") -> Array:
    """The artifact's first output for every sample of an .npz, as float32 (n, ...)."""
    job = BenchmarkJob(subject.artifact.path, subject.runtime, inputs=inputs, outputs=outputs, timeout_s=3600)
    load_device(device).run(device, job)
    with np.load(outputs, allow_pickle=False) as archive:
        return np.asarray(archive[archive.files[0]])


def measure(
    found: Sequence[Subject],
    settings: Benchmark,
    inputs: Path | None,
    on_step: Callable[[int, int, str], None],
) -> list[Json]:
    """Measure every subject: `rounds` fresh processes each, interleaved so that drift meets all alike."""
    device = load_device(settings.device)
    benchmarks = [load_benchmark(name) for name in plugin_names("benchmarks")]
    results: list[list[BenchmarkResult]] = [[] for _ in found]
    step = 0
    for _ in range(settings.rounds):
        for subject, documents in zip(found, results, strict=True):
            on_step(step, settings.rounds * len(found), f"{subject.artifact.id} in {subject.runtime}")
            step += 1
            job = BenchmarkJob(
                subject.artifact.path,
                subject.runtime,
                threads=settings.threads,
                inputs=inputs,
                min_queries=settings.min_queries,
                min_duration_s=settings.min_duration_s,
                warmup_s=settings.warmup_s,
            )
            documents.append(device.run(settings.device, job))
    measurements = []
    for subject, documents in zip(found, results, strict=True):
        first = documents[0].document
        measurement: Json = {
            "artifact": subject.artifact.id,
            "artifact_sha256": subject.artifact.sha256,
            "device": settings.device,
            "source": "measured",
            "runtime": subject.runtime,
            "runtime_version": first["runtime_version"],
            "threads": settings.threads,
            "batch": 1,
            "rounds": settings.rounds,
            "facts": first["facts"],
        }
        flags: list[str] = []
        valid = True
        for benchmark in benchmarks:
            fields = dict(benchmark.measure(documents))
            flags += fields.pop("flags", [])
            valid = fields.pop("valid", True) and valid
            measurement |= fields
        measurement |= {"valid": valid, "flags": flags}
        measurements.append(measurement)
    return measurements


def measure_files(
    artifacts: Sequence[Artifact],
    against: Artifact | None,
    settings: Benchmark,
    on_step: Callable[[int, int, str], None],
) -> list[Json]:
    """Measure files on seeded inputs; with `against`, each gets its ratio to that file in the same rounds.

    The reference in the same runtime is taken where there is one, else its first runtime.
    """
    wanted = [*artifacts, *([against] if against is not None else [])]
    found = subjects(wanted)
    measurements = measure(found, settings, None, on_step)
    if against is None:
        return measurements
    references = [m for m, subject in zip(measurements, found, strict=True) if subject.artifact is against]
    for measurement in measurements:
        same = [r for r in references if r["runtime"] == measurement["runtime"]]
        measurement["ratio_to_reference"] = ratio_of(measurement, (same or references)[0])
    return measurements


def compare_files(reference: Artifact, candidate: Artifact, inputs: Path | None, tolerance: ParitySettings) -> Parity:
    """Compare two files, of any formats, over the same model-ready samples; the farthest runtime counts.

    The reference is computed in the first of its runtimes; the tolerance is that of the lower precision.
    """
    precision = max((reference.precision, candidate.precision), key=lambda p: p is not Precision.FP32)
    with tempfile.TemporaryDirectory() as folder:
        samples = inputs or _generated(reference, Path(folder) / "inputs.npz")
        expected = compute(subjects([reference])[0], samples, Path(folder) / "reference.npz")
        return worst(
            [
                compare(
                    expected, compute(subject, samples, Path(folder) / "candidate.npz"), precision, tolerance,
                    name=reference.path.name, runtime=subject.runtime,
                )
                for subject in subjects([candidate])
            ]
        )  # fmt: skip


def _generated(artifact: Artifact, path: Path) -> Path:
    """32 seeded standard normal samples of the artifact's input shapes."""
    subject = subjects([artifact])[0]
    job = BenchmarkJob(artifact.path, subject.runtime)
    specs = load_device("cpu").run("cpu", job).document["inputs"]
    rng = np.random.default_rng(0)
    arrays = {s["name"]: rng.standard_normal((32, *s["shape"][1:])).astype(np.float32) for s in specs}
    np.savez(path, **arrays)
    return path


def ratio_of(measurement: Json, reference: Json) -> Json:
    """Latency relative to another artifact measured in the same interleaved rounds."""
    rounds = [own / other for own, other in zip(measurement["round_p50_ms"], reference["round_p50_ms"], strict=True)]
    return {
        "reference": reference["artifact"],
        "p50": float(np.median(rounds)),
        "rounds": rounds,
    }
