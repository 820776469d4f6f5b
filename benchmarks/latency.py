"""Latency of single inferences at batch 1, one stream: every sample of every round counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.statistics import early_stopping_p90, summarize_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import Array, BenchmarkResult, Json

REQUIRES: tuple[str, ...] = ()
_UNSTABLE = 1.25
"""Rounds whose medians differ by more than a quarter are told; the gate asks every round anyway."""
_THROTTLED = 1.10
"""A last third that is a tenth slower than the first, in most rounds, is a trend and no noise."""
_TREND_SAMPLES = 30
_WAITED = 0.05
"""A stream needs its cores all the time: queueing for them through a twentieth of it is contention."""
_STOLEN = 0.01


def measure(results: Sequence[BenchmarkResult]) -> Json:
    """Percentiles over all rounds' samples, the medians of each round, and the stages before them.

    Load and first-inference times are medians over the rounds, each a fresh process. `percentiles_ms` holds the 0th
    to the 100th over all rounds, `timeline_ms` medians of up to 30 stretches of each round, `runtime_p50_ms` the median
    by the runtime's own clock (OpenVINO has one). Flags tell what makes the figures doubtful: too few queries (which
    alone makes them invalid), unstable, throttled, contended.
    """
    if "latency_ns" not in results[0].document:  # an emulated device has no time to tell
        return {}
    rounds = [np.asarray(result.document["latency_ns"], dtype=np.float64) / 1e6 for result in results]
    pooled = np.concatenate(rounds)
    medians = [float(np.median(samples)) for samples in rounds]
    early = early_stopping_p90(pooled)
    flags = []
    if early is None:
        flags.append(f"too few queries for a 90th percentile: {pooled.size} (at least 64 are needed)")
    if max(medians) > _UNSTABLE * min(medians):
        flags.append(f"unstable: medians of the rounds from {min(medians):.4f} to {max(medians):.4f} ms")
    flags += [*_throttled(rounds), *_contended(results)]

    def median(key: str) -> float:
        return float(np.median([result.document[key] for result in results]))

    summary = summarize_ms(pooled)
    return {
        "latency_ms": summary,
        "throughput_per_s": 1e3 / float(summary["mean"]),
        "p90_early_stopping_ms": early,
        "round_p50_ms": medians,
        "percentiles_ms": [float(value) for value in np.percentile(pooled, np.arange(101))],
        "timeline_ms": [_timeline(samples) for samples in rounds],
        "import_ms": median("import_ms"),
        "load_cold_ms": median("load_cold_ms"),
        "load_warm_ms": median("load_warm_ms"),
        "first_inference_ms": median("first_inference_ms"),
        **{key: median(key) for key in ("runtime_p50_ms",) if key in results[0].document},
        "warmup_inferences": [r.document["warmup"]["inferences"] for r in results if "warmup" in r.document],
        "page_cache": results[0].document["page_cache"],
        "involuntary_switches": sum(result.document["involuntary_switches"] for result in results),
        "valid": early is not None,
        "flags": flags,
    }


def _timeline(samples: Array) -> list[float]:
    """Medians of up to 30 stretches of a round, in the order of time."""
    return [float(np.median(part)) for part in np.array_split(samples, min(30, samples.size))]


def _throttled(rounds: Sequence[Array]) -> list[str]:
    """Whether rounds get slower from their first third to their last."""
    thirds = [np.array_split(samples, 3) for samples in rounds if samples.size >= _TREND_SAMPLES]
    trends = [float(np.median(parts[2]) / np.median(parts[0])) for parts in thirds]
    if not trends or np.median(trends) <= _THROTTLED:
        return []
    return [f"throttled: the last third of a round takes {np.median(trends):.2f} x its first (median of {len(trends)})"]


def _contended(results: Sequence[BenchmarkResult]) -> list[str]:
    """Whether others took the cores: stolen time, threads that queued, more threads ready than there are cores.

    Where the kernel tells no queueing times, what a stream of one thread was not on its core counts for that.
    """
    told = [result.document["disturbance"] for result in results if "disturbance" in result.document]
    wall = sum(one["wall_s"] for one in told)
    if not wall:
        return []
    flags = []
    stolen = sum(one.get("steal_s", 0.0) for one in told) / wall
    if stolen > _STOLEN:
        flags.append(f"contended: the host stole {100 * stolen:.0f}% of a core")
    waited = sum(one.get("queued_s", one["wall_s"] - one["cpu_s"]) for one in told) / wall
    if waited > _WAITED:
        switches = sum(one["involuntary_switches"] for one in told)
        times = f"threw it off {switches:.0f} times"
        flags.append(f"contended: the stream waited {100 * waited:.0f}% of the time for a core, others {times}")
    ready, cores = (float(np.median([one.get(key, 0.0) for one in told])) for key in ("run_queue", "host_cores"))
    if ready > cores > 0:
        flags.append(f"contended: {ready:.0f} threads were ready to run on {cores:.0f} cores")
    return flags
