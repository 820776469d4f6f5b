"""Percentiles of latencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

    from edgedistill.types import Array


def early_stopping_p90(samples: Float[Array, " n"]) -> float | None:
    """MLPerf's early-stopping estimate of the 90th percentile: an upper bound at 99% confidence.

    Of q queries, let t be the largest over-latency count with I(0.9; q - t, t + 1) <= 0.01, where I is
    the regularised incomplete beta function; the t - 1 largest samples are discarded and the largest that
    is left is returned. None when there are too few queries to say anything.
    Source: MLCommons inference rules, "early stopping" appendix (percentile 0.9, confidence 0.99, d = 0).
    """
    from scipy.special import betainc

    q = samples.size
    if q < 2:  # with one query no count of over-latency queries can be allowed
        return None
    counts = np.arange(1, q)
    allowed = counts[betainc(q - counts, counts + 1, 0.9) <= 0.01]  # c = 0.99
    if allowed.size == 0:
        return None
    return float(np.sort(samples)[::-1][int(allowed[-1]) - 1])


def summarize_ms(samples: Float[Array, " n"]) -> dict[str, float | int]:
    """Latency figures of the report, in milliseconds, from samples in milliseconds.

    Raises:
        ValueError: there are no samples.
    """
    if samples.size == 0:
        raise ValueError("no latency samples")
    p50, p90, p95, p99 = (float(v) for v in np.percentile(samples, [50, 90, 95, 99]))
    return {
        "min": float(samples.min()),
        "p50": p50,
        "p90": p90,
        "p95": p95,
        "p99": p99,
        "max": float(samples.max()),
        "mean": float(samples.mean()),
        "std": float(samples.std(ddof=1)) if samples.size > 1 else 0.0,
        "count": int(samples.size),
        "duration_s": float(samples.sum() / 1e3),
    }
