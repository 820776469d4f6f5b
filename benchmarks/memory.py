"""Resident memory of the process that runs the artifact, by stage."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import AgentAnswer, Json

REQUIRES: tuple[str, ...] = ()
STAGES = ("baseline", "after_import", "after_load", "peak")


def measure(results: Sequence[AgentAnswer]) -> Json:
    """Median over the rounds, in bytes: Python and numpy alone, runtime imported, model loaded, highest ever.

    Of the runtimes' own programs only the peak is known, of some not even that. Nothing for a microcontroller, which
    has no process; its arena is told instead.
    """
    known = results[0].document.get("memory_bytes")
    if known is None:
        return {}
    return {
        "memory_bytes": {
            stage: int(statistics.median(result.document["memory_bytes"][stage] for result in results))
            for stage in STAGES
            if stage in known
        }
    }
