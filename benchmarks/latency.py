"""Latency of single inferences at batch 1, one stream: every sample of every round counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.statistics.latency import early_stopping_p90, summarize_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import AgentAnswer, Array, Json

REQUIRES: tuple[str, ...] = ()
_UNSTABLE = 1.25
"""Rounds whose medians differ by more than a quarter are told; the gate asks every round anyway."""
_THROTTLED = 1.10
"""A last third that is a tenth slower than the first, in most rounds, is a trend and no noise."""
_TREND_SAMPLES = 30
_WAITED = 0.05
"""A stream needs its cores all the time: queueing for them through a twentieth of it is contention."""
_STOLEN = 0.01
_FEWEST = 64
"""So many samples bound a 90th percentile; where only summaries are told, as many are asked for."""


def measure(results: Sequence[AgentAnswer]) -> Json:
    """Percentiles over all rounds' samples, the medians of each round, and the stages before them.

    Load and first-inference times are medians over the rounds, each a fresh process. `percentiles_ms` holds the 0th
    to the 100th over all rounds, `timeline_ms` medians of up to 30 stretches of each round, `runtime_p50_ms` the median
    by the runtime's own clock (OpenVINO has one). Flags tell what makes the figures doubtful: too few queries (which
    alone makes them invalid), unstable, throttled, contended.
    """
    if "latency_ns" not in results[0].document:
        return _of_summaries(results)
    rounds = [np.asarray(result.document["latency_ns"], dtype=np.float64) / 1e6 for result in results]
    pooled = np.concatenate(rounds)
    medians = [float(np.median(samples)) for samples in rounds]
    early = early_stopping_p90(pooled)
    flags = []
    if early is None:
        flags.append(f"too few queries for a 90th percentile: {pooled.size} (at least 64 are needed)")
    if max(medians) > _UNSTABLE * min(medians):
        flags.append(f"unstable: medians of the rounds from {min(medians):.4f} to {max(medians):.4f} ms")
    flags += [*_throttled(rounds), *_contended(results), *_told_by_device(results)]
    summary = summarize_ms(pooled)
    return {
        "latency_ms": summary,
        "throughput_per_s": 1e3 / float(summary["mean"]),
        "p90_early_stopping_ms": early,
        "round_p50_ms": medians,
        "percentiles_ms": [float(value) for value in np.percentile(pooled, np.arange(101))],
        "timeline_ms": [_timeline(samples) for samples in rounds],
        **_stages(results),
        "valid": early is not None,
        "flags": flags,
    }


def _told_by_device(results: Sequence[AgentAnswer]) -> list[str]:
    """What the device itself says against its figures, in any round."""
    return list(dict.fromkeys(flag for result in results for flag in result.document.get("device_flags", [])))


def _stages(results: Sequence[AgentAnswer]) -> Json:
    """What came before the stream, as far as it was told: the runtimes' own programs do not tell all of it."""
    documents = [result.document for result in results]
    names = ("import_ms", "load_cold_ms", "load_warm_ms", "first_inference_ms", "runtime_p50_ms")
    found: Json = {
        name: float(np.median([document[name] for document in documents])) for name in names if name in documents[0]
    }
    if "warmup" in documents[0]:
        found["warmup_inferences"] = [document["warmup"]["inferences"] for document in documents]
    if "page_cache" in documents[0]:
        found["page_cache"] = documents[0]["page_cache"]
        found["involuntary_switches"] = sum(document["involuntary_switches"] for document in documents)
    return found


def _of_summaries(results: Sequence[AgentAnswer]) -> Json:
    """From the rounds' own summaries, where single latencies are not told; nothing for an emulated device.

    Counts, extremes, mean and deviation are those of all rounds together, percentiles medians over the rounds. A figure
    that a round does not tell is left out.
    """
    told = [r.document["latency_summary_ms"] for r in results if "latency_summary_ms" in r.document]
    if not told:
        return {}
    shared = [name for name in told[0] if all(name in one for one in told)]
    counts, means = ([float(one[name]) for one in told] for name in ("count", "mean"))
    mean = float(np.average(means, weights=counts))

    def joined(name: str) -> float:
        values = [float(one[name]) for one in told]
        if name in ("min", "max"):
            return min(values) if name == "min" else max(values)
        if name == "std":
            squares = [std * std + own * own for std, own in zip(values, means, strict=True)]
            return float(np.sqrt(max(0.0, float(np.average(squares, weights=counts)) - mean * mean)))
        return float(np.median(values))

    percentiles: Json = {name: joined(name) for name in shared if name not in ("count", "mean")}
    summary: Json = {"count": int(sum(counts)), "mean": mean, **percentiles}
    few = summary["count"] < _FEWEST
    flags = [f"too few queries: {summary['count']} (at least {_FEWEST} are needed)"] if few else []
    medians = {"round_p50_ms": [one["p50"] for one in told]} if "p50" in shared else {}
    return {
        "latency_ms": summary,
        "throughput_per_s": 1e3 / mean,
        "p90_early_stopping_ms": None,
        **medians,
        **_stages(results),
        "valid": not few,
        "flags": [*flags, *_told_by_device(results)],
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


def _contended(results: Sequence[AgentAnswer]) -> list[str]:
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
