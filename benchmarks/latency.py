"""Latency of single inferences at batch 1, one stream: every sample of every round counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.statistics import early_stopping_p90, summarize_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import BenchmarkResult, Json

REQUIRES: tuple[str, ...] = ()
_UNSTABLE = 1.25
"""Rounds whose medians differ by more than a quarter are told; the gate asks every round anyway."""


def measure(results: Sequence[BenchmarkResult]) -> Json:
    """Percentiles over all rounds' samples, the medians of each round, and the stages before them.

    Load and first-inference times are medians over the rounds, each a fresh process.
    """
    rounds = [np.asarray(result.document["latency_ns"], dtype=np.float64) / 1e6 for result in results]
    pooled = np.concatenate(rounds)
    medians = [float(np.median(samples)) for samples in rounds]
    early = early_stopping_p90(pooled)
    flags = []
    if early is None:
        flags.append(f"too few queries for a 90th percentile: {pooled.size} (at least 64 are needed)")
    if max(medians) > _UNSTABLE * min(medians):
        flags.append(f"unstable: medians of the rounds from {min(medians):.4f} to {max(medians):.4f} ms")

    def median(key: str) -> float:
        return float(np.median([result.document[key] for result in results]))

    return {
        "latency_ms": summarize_ms(pooled),
        "p90_early_stopping_ms": early,
        "round_p50_ms": medians,
        "import_ms": median("import_ms"),
        "load_cold_ms": median("load_cold_ms"),
        "load_warm_ms": median("load_warm_ms"),
        "first_inference_ms": median("first_inference_ms"),
        "page_cache": results[0].document["page_cache"],
        "involuntary_switches": sum(result.document["involuntary_switches"] for result in results),
        "valid": early is not None,
        "flags": flags,
    }
