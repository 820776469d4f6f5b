"""Measure artifacts on a device: fresh processes, interleaved, every benchmark of the shelf."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.plugins import load_benchmark, load_device, load_exporter, plugin_names
from edgedistill.types import BenchmarkJob, BenchmarkResult, Json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edgedistill.recipe import Benchmark
    from edgedistill.types import Artifact


@dataclass(frozen=True)
class Subject:
    """An artifact in one of the runtimes that open it."""

    artifact: Artifact
    runtime: str


def subjects(artifacts: Sequence[Artifact]) -> list[Subject]:
    """Every artifact in every runtime of its format that is installed here."""
    return [
        Subject(artifact, runtime)
        for artifact in artifacts
        for runtime, module in load_exporter(artifact.format).RUNTIMES.items()
        if importlib.util.find_spec(module) is not None
    ]


def compute(subject: Subject, inputs: Path, outputs: Path, device: str = "cpu") -> np.ndarray:
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
        for benchmark in benchmarks:
            fields = dict(benchmark.measure(documents))
            flags += fields.pop("flags", [])
            measurement |= fields
        measurement |= {"valid": not flags, "flags": flags}
        measurements.append(measurement)
    return measurements


def ratio_of(measurement: Json, reference: Json) -> Json:
    """Latency relative to another artifact measured in the same interleaved rounds."""
    rounds = [
        own / other
        for own, other in zip(measurement["round_p50_ms"], reference["round_p50_ms"], strict=True)
    ]
    return {
        "reference": reference["artifact"],
        "p50": float(np.median(rounds)),
        "rounds": rounds,
    }
