"""Measure artifacts on a device: fresh processes, interleaved, every benchmark of the shelf."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, cast

import numpy as np

from edgedistill.artifacts.running import call_for, subjects_on
from edgedistill.errors import DeviceError, UsageError
from edgedistill.plugins import load_benchmark, load_device, plugin_names
from edgedistill.statistics.faster import Round, compare_rounds

Latencies: TypeAlias = "dict[str, Array]"
"""Latencies of single inferences, nanoseconds, in the order of time: `artifact/runtime/round` -> array."""

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgedistill.artifacts.running import Subject
    from edgedistill.documents.measurements import ComparedRatio, Ratio, Timed, TimedRounds
    from edgedistill.events import Events
    from edgedistill.recipe.document import Benchmark
    from edgedistill.types import AgentAnswer, AgentCall, Array, Artifact, Json


def measure(
    found: Sequence[Subject],
    settings: Benchmark,
    inputs: Path | None,
    events: Events,
    samples: Latencies | None = None,
) -> list[Timed]:
    """Measure every subject: `rounds` fresh processes each, interleaved so that drift meets all alike.

    Into `samples`, if given, go all latencies in nanoseconds, by artifact, runtime and round.
    """
    order = [*found] * settings.rounds
    results = _run(order, settings, inputs, events)
    _collect(order, results, samples)
    return [measurement_of(subject, results[n :: len(found)], settings) for n, subject in enumerate(found)]


def _collect(order: Sequence[Subject], results: Sequence[AgentAnswer], samples: Latencies | None) -> None:
    if samples is None:
        return
    digests = {(one.artifact.id, one.artifact.sha256) for one in order}
    twice = [name for name, _ in digests if sum(other == name for other, _ in digests) > 1]
    for subject, result in zip(order, results, strict=True):
        artifact = subject.artifact
        name = f"{artifact.id}@{artifact.sha256[:8]}" if artifact.id in twice else artifact.id
        name = f"{name}/{subject.runtime}"
        number = sum(key.startswith(f"{name}/") for key in samples)
        samples[f"{name}/{number}"] = np.asarray(result.document.get("latency_ns", []), dtype=np.uint64)


def _run(
    order: Sequence[Subject],
    settings: Benchmark,
    inputs: Path | None,
    events: Events,
    *,
    single: bool = False,
) -> list[AgentAnswer]:
    """A fresh process for each, in this order; with `single`, each must tell every single latency."""
    device = load_device(settings.device)
    results = []
    met: set[tuple[Path, str]] = set()
    for step, subject in enumerate(order):
        events.step(f"measure {subject.artifact.id} in {subject.runtime}", step, len(order))
        job = _job(subject, settings, inputs)
        sustained = 0.0 if (subject.artifact.path, subject.runtime) in met else settings.sustained_min
        results.append(device.run(settings.device, replace(job, sustained_min=sustained)))
        met.add((subject.artifact.path, subject.runtime))
        if single and "latency_ns" not in results[-1].document:
            raise UsageError(
                f"{settings.device} does not tell single latencies of {subject.runtime}",
                where="--against",
                expected="every latency of every round, which comparisons are made of",
                got="a summary",
                fix="leave --against out, or compare on another device",
            )
    return results


def _job(subject: Subject, settings: Benchmark, inputs: Path | None) -> AgentCall:
    return replace(
        call_for(subject, settings.device),
        threads=settings.threads,
        inputs=inputs,
        min_queries=settings.min_queries,
        min_duration_s=settings.min_duration_s,
        warmup_s=settings.warmup_s,
        timeout_s=settings.timeout_s,
        affinity=tuple(settings.affinity),
        profile=settings.profile,
    )


def measurement_of(subject: Subject, results: Sequence[AgentAnswer], settings: Benchmark) -> Timed:
    """A measurement of what was timed."""
    return cast("Timed", figures(subject, results, settings))  # plug-ins are taken at their word


def figures(subject: Subject, results: Sequence[AgentAnswer], settings: Benchmark) -> Json:
    """What every benchmark of the shelf makes of a subject's processes.

    A round that is too short makes it invalid; with the preset `official`, any flag does.
    """
    first = results[0].document
    measurement: Json = {
        "artifact": subject.artifact.id,
        "artifact_sha256": subject.artifact.sha256,
        "device": settings.device,
        "source": first.get("source", "measured"),
        "runtime": subject.runtime,
        "runtime_version": first["runtime_version"],
        "threads": settings.threads,
        "cores": first.get("cores", []),
        "preset": settings.preset,
        "batch": first.get("batch", 1),
        "inputs": [{key: one[key] for key in ("name", "shape", "dtype")} for one in first.get("inputs", [])],
        "rounds": len(results),
        "facts": first["facts"],
    }
    flags: list[str] = []
    valid = True
    for benchmark in map(load_benchmark, plugin_names("benchmarks")):
        fields = dict(benchmark.measure(results))
        flags += fields.pop("flags", [])
        valid = fields.pop("valid", True) and valid
        measurement |= fields
    short = _too_short(results, settings)
    strict = settings.preset == "official"
    return measurement | {"valid": valid and not short and not (strict and flags), "flags": short + flags}


def _too_short(results: Sequence[AgentAnswer], settings: Benchmark) -> list[str]:
    """Rounds with fewer queries or seconds than were asked for."""
    told = [result.document for result in results if "latency_ns" in result.document]
    queries = min((len(one["latency_ns"]) for one in told), default=settings.min_queries)
    seconds = min((one["disturbance"]["wall_s"] for one in told if "disturbance" in one), default=math.inf)
    if queries >= settings.min_queries and seconds >= settings.min_duration_s:
        return []
    wanted = f"{settings.min_queries} and {settings.min_duration_s:g} s are asked for"
    return [f"too few queries: a round had {queries} in {seconds:.3g} s, {wanted}"]


def measure_files(
    artifacts: Sequence[Artifact],
    against: Artifact | None,
    settings: Benchmark,
    events: Events,
    samples: Latencies | None = None,
    inputs: Path | None = None,
) -> list[Timed]:
    """Measure files; with `against`, each is compared with that file in the same rounds.

    Without `inputs` (.npz, first axis: samples) they get seeded ones.

    The reference in the same runtime is taken where there is one, else in its first runtime.
    """
    found = subjects_on(settings.device, artifacts)
    if against is None:
        return measure(found, settings, inputs, events, samples)
    references = subjects_on(settings.device, [against])
    measurements: list[Timed] = []
    for reference in references:
        own = [subject for subject in found if _partner(subject, references) is reference]
        measurements += measure_beside(own, reference, settings, events, samples, inputs)
    return measurements


def _partner(subject: Subject, references: Sequence[Subject]) -> Subject:
    """The reference in the subject's runtime, else the first."""
    return next((r for r in references if r.runtime == subject.runtime), references[0])


def measure_beside(
    own: Sequence[Subject],
    reference: Subject,
    settings: Benchmark,
    events: Events,
    samples: Latencies | None = None,
    inputs: Path | None = None,
) -> list[Timed]:
    """Rounds of reference, candidate, reference, candidate, ..., reference; then everyone's measurement and answer."""
    around = [subject for candidate in own for subject in (reference, candidate)] + [reference]
    results = _run(around * settings.rounds, settings, inputs, events, single=True)
    _collect(around * settings.rounds, results, samples)
    by_place = [results[place :: len(around)] for place in range(len(around))]
    beside = measurement_of(reference, [r for place in by_place[::2] for r in place], settings)
    measurements = []
    for n, candidate in enumerate(own):
        before, middle, after = ([_latencies_ms(r) for r in by_place[2 * n + k]] for k in range(3))
        rounds = [Round(*parts) for parts in zip(before, middle, after, strict=True)]
        measurement = measurement_of(candidate, by_place[2 * n + 1], settings)
        measurement["ratio_to_reference"] = _compared(reference, rounds)
        measurements.append(measurement)
    return [*measurements, beside]


def _compared(reference: Subject, rounds: Sequence[Round]) -> ComparedRatio:
    """The comparison of several rounds; of one, its ratio alone."""
    ratios = [float(np.median(r.candidate) / np.sqrt(np.median(r.before) * np.median(r.after))) for r in rounds]
    if len(rounds) == 1:
        return {
            "reference": reference.artifact.id,
            "runtime": reference.runtime,
            "rounds": ratios,
            "p50": ratios[0],
            "answer": "inconclusive",
            "needed_rounds": None,
        }
    found = compare_rounds(rounds)
    return {
        "reference": reference.artifact.id,
        "runtime": reference.runtime,
        "rounds": ratios,
        "p50": found.p50.value,
        "p90": found.p90.value,
        "p50_interval99": [found.p50.low, found.p50.high],
        "p90_interval99": [found.p90.low, found.p90.high],
        "compared_rounds": found.rounds,
        "noise_floor": found.noise_floor,
        "p_value": found.p_value,
        "margin": found.margin,
        "answer": found.answer,
        "needed_rounds": found.needed_rounds,
    }


def _latencies_ms(result: AgentAnswer) -> Array:
    return np.asarray(result.document["latency_ns"], dtype=np.float64) / 1e6


def by_round(measurement: Timed) -> TypeGuard[TimedRounds]:
    """Whether a device tells the median of each round: some runtimes' own programs do not."""
    return bool(measurement.get("round_p50_ms"))


def comparable(measurement: Timed) -> TimedRounds:
    """A measurement that can be compared round by round.

    Raises:
        DeviceError: its device tells no medians.
    """
    if by_round(measurement):
        return measurement
    raise DeviceError(
        f"{measurement['device']} does not tell the median of each round of {measurement['runtime']}",
        where=f"device: {measurement['device']}",
        expected="a median for each round, which comparisons are made of",
        got="a summary",
        fix="compare on another device",
    )


def ratio_of(measurement: TimedRounds, reference: TimedRounds) -> Ratio:
    """Latency relative to another artifact measured in the same interleaved rounds."""
    rounds = [own / other for own, other in zip(measurement["round_p50_ms"], reference["round_p50_ms"], strict=True)]
    return {
        "reference": reference["artifact"],
        "p50": float(np.median(rounds)),
        "rounds": rounds,
    }
