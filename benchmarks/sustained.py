"""Does it keep its speed? A stream without a pause, minute by minute."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import AgentAnswer, Json

REQUIRES: tuple[str, ...] = ()
_THROTTLED = 1.10


def measure(results: Sequence[AgentAnswer]) -> Json:
    """`sustained`: the minutes of the first round that has them, and the last minute's p50 over the first's.

    Nothing where no such stream was asked for.
    """
    minutes = next((r.document["minutes_ms"] for r in results if "minutes_ms" in r.document), None)
    if minutes is None:
        return {}
    ratio = minutes[-1]["p50"] / minutes[0]["p50"]
    told = f"throttled: the last of {len(minutes)} minutes takes {ratio:.2f} x the first"
    return {
        "sustained": {"minutes_ms": minutes, "last_to_first": ratio},
        "flags": [told] if ratio > _THROTTLED else [],
    }
