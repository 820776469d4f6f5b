"""What one inference costs in instructions, by class: of emulated devices, which have no time to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import AgentAnswer, Json

REQUIRES: tuple[str, ...] = ()
_STEADY = 0.02


def measure(results: Sequence[AgentAnswer]) -> Json:
    """`instructions` per inference, `kernels` the core got, perhaps `caches`, and where the raw counts lie.

    Nothing for a device that counts none. A spread of more than 2% between inferences is told.
    """
    document = results[0].document
    if "instructions" not in document:
        return {}
    counted = document["instructions"]
    unsteady = f"unsteady: inferences differ by {100 * counted['spread']:.2f}% in instructions"
    return {
        "instructions": counted,
        "kernels": {"dot_product": counted["dot"] > 0, "matrix": counted["matrix"] > 0, "sve": counted["sve"] > 0},
        "blocks": document["blocks"],
        "reused": document["reused"],
        **({"caches": document["caches"]} if "caches" in document else {}),
        "flags": document["emulation_flags"] + ([unsteady] if counted["spread"] > _STEADY else []),
    }
