"""Where the time goes: every operator's milliseconds and share, from the runtime's own profiler."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import AgentAnswer, Json

REQUIRES: tuple[str, ...] = ()


def measure(results: Sequence[AgentAnswer]) -> Json:
    """`operators`: name, type, milliseconds an inference and share, in the file's order.

    `ms` is the median over the rounds of each round's mean, `least_ms` the fastest inference of all.

    Nothing where no profile was asked for; `operators_reason` where the runtime has no profiler.
    """
    profiles = [result.document["profile"] for result in results if "profile" in result.document]
    if not profiles:
        return {}
    if profiles[0]["operators"] is None:
        return {"operators": None, "operators_reason": profiles[0]["reason"]}
    rounds = [{_key(row): row for row in profile["operators"]} for profile in profiles]
    rows = [_over(row, [one[_key(row)] for one in rounds if _key(row) in one]) for row in profiles[0]["operators"]]
    total = sum(row["ms"] for row in rows)
    return {"operators": [{**row, "share": row["ms"] / total if total else 0.0} for row in rows]}


def _key(row: Json) -> tuple[str, str]:
    """Names are not unique: a part of a fused operator may have the whole's."""
    return row["name"], row["type"]


def _over(row: Json, rounds: Sequence[Json]) -> Json:
    """One operator over the rounds that ran it."""
    ms = statistics.median(one["ms"] for one in rounds)
    return {**row, "ms": ms, "least_ms": min(one["least_ms"] for one in rounds)}
