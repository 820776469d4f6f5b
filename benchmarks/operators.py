"""Where the time goes: every operator's milliseconds and share, from the runtime's own profiler."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import BenchmarkResult, Json

REQUIRES: tuple[str, ...] = ()


def measure(results: Sequence[BenchmarkResult]) -> Json:
    """`operators`: name, type, milliseconds an inference (median over the rounds) and share, in the file's order.

    Nothing where no profile was asked for; `operators_reason` where the runtime has no profiler.
    """
    profiles = [result.document["profile"] for result in results if "profile" in result.document]
    if not profiles:
        return {}
    if profiles[0]["operators"] is None:
        return {"operators": None, "operators_reason": profiles[0]["reason"]}
    times = [{row["name"]: row["ms"] for row in profile["operators"]} for profile in profiles]
    rows = [
        {**row, "ms": statistics.median(one.get(row["name"], 0.0) for one in times)} for row in profiles[0]["operators"]
    ]
    total = sum(row["ms"] for row in rows)
    return {"operators": [{**row, "share": row["ms"] / total if total else 0.0} for row in rows]}
