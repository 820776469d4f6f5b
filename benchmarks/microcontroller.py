"""What a model takes of a microcontroller's SRAM and flash, and whether it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import AgentAnswer, Json

REQUIRES: tuple[str, ...] = ()


def measure(results: Sequence[AgentAnswer]) -> Json:
    """`arena_bytes` of `sram_bytes`, `flash_bytes` of `flash_size_bytes`, `fits` and the reasons.

    Nothing for a device that is no microcontroller. A file that does not fit is a flag, and no valid measurement.
    """
    needs = results[0].document.get("microcontroller")
    if needs is None:
        return {}
    flags = [] if needs["fits"] else [f"does not fit: {'; '.join(needs['reasons'])}"]
    return {**needs, "valid": needs["fits"], "flags": flags}
