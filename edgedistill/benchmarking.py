"""Measure artifacts on a device: fresh processes, interleaved, every benchmark of the shelf."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.comparing import subjects
from edgedistill.plugins import load_benchmark, load_device, plugin_names
from edgedistill.types import BenchmarkJob, BenchmarkResult, Json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edgedistill.comparing import Subject
    from edgedistill.recipe import Benchmark
    from edgedistill.types import Artifact


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


def ratio_of(measurement: Json, reference: Json) -> Json:
    """Latency relative to another artifact measured in the same interleaved rounds."""
    rounds = [own / other for own, other in zip(measurement["round_p50_ms"], reference["round_p50_ms"], strict=True)]
    return {
        "reference": reference["artifact"],
        "p50": float(np.median(rounds)),
        "rounds": rounds,
    }
