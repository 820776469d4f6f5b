"""Instruction counts as features: what a core does, by classes whose costs are fitted to its board's timings."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from .._arm.counts import decode_a64, split_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.types import Array

    from .._arm.counts import Blocks

FEATURES = ("multiply_adds", "other_instructions", "loaded_vectors", "stored_vectors", "l1_misses", "last_level_misses")
"""Vector multiply-accumulate instructions; all others, a division or square root as 21; units of 16 bytes that vector
loads and stores move; misses of the first-level data cache and of the last level before memory."""
DIVISION = 20
"""Further instructions that a division or a square root stands for."""
PRIORS = {
    "cortex-a53": (1.0, 0.5, 2.0, 2.0, 4.0, 12.0),
    "cortex-a55": (1.0, 0.5, 1.5, 1.5, 4.0, 30.0),
    "cortex-a72": (1.0, 0.5, 1.0, 2.0, 3.0, 10.0),
    "cortex-a76": (0.5, 0.33, 0.5, 1.0, 3.0, 30.0),
}
"""Cycles per feature, set by hand from the cores' pipelines; only their proportions count."""
LAST_LEVEL = {"cortex-a72": (1024, 16), "cortex-a76": (2048, 16)}
"""KiB and ways of the cache before memory: the shared L2 of older clusters, the L3 of newer ones."""
_MULTIPLY_ADDS = frozenset({"fmla", "fmls"})
_INTEGER_PRODUCTS = frozenset(
    {
        "fmlal",
        "fmlal2",
        "sdot",
        "udot",
        "smlal",
        "smull",
        "smlal2",
        "smull2",
        "umlal",
        "smmla",
    }
)
_ROOTS = frozenset({"fdiv", "fsqrt"})
_LANES = {"16b": 16, "8h": 16, "4s": 16, "2d": 16, "8b": 8, "4h": 8, "2s": 8, "1d": 8, "b": 1, "h": 2, "s": 4, "d": 8}
_SCALARS = {"q": 16, "d": 8, "s": 4, "h": 2, "b": 1}
_LIST = re.compile(r"\{([^}]*)\}")


def features_of_blocks(blocks: Blocks) -> Array:
    """The features of one inference, from counted aarch64 blocks and the cache models' misses."""
    times: Counter[str] = Counter()
    for block, runs in blocks.runs.items():
        for word in split_blocks(block):
            times[word] += runs
    told = decode_a64(list(times))
    totals: Counter[str] = Counter()
    for word, runs in times.items():
        for name, amount in _adds(word, told[word]).items():
            totals[name] += amount * runs
    _accesses, first, last = blocks.caches
    return features_of_totals({**totals, "l1_misses": first, "last_level_misses": last})


def features_of_totals(totals: Mapping[str, float]) -> Array:
    """From totals: instructions, multiply_adds, divisions, loaded_bytes, stored_bytes, l1_misses, last_level_misses."""
    others = totals["instructions"] - totals["multiply_adds"] + DIVISION * totals.get("divisions", 0)
    loaded, stored = totals["loaded_bytes"] / 16, totals["stored_bytes"] / 16
    return np.array(
        [totals["multiply_adds"], others, loaded, stored, totals["l1_misses"], totals["last_level_misses"]], float
    )


def _adds(word: str, told: str) -> dict[str, int]:
    """What one execution of an instruction adds to the totals."""
    name, _, operands = told.partition(" ")
    found = {"instructions": 1}
    value = int(word, 16)
    if value >> 26 & 1 and _is_load_or_store(value) and not name.startswith("prf"):
        found["stored_bytes" if name.startswith("st") else "loaded_bytes"] = _bytes(name, operands)
    elif name in _ROOTS:
        found["divisions"] = 1
    elif name in _MULTIPLY_ADDS | _INTEGER_PRODUCTS:
        found["multiply_adds"] = 1
    return found


def _is_load_or_store(value: int) -> bool:
    """By the top level of A64's encoding, bits 28 to 25: x1x0 (Arm Architecture Reference Manual, C4.1)."""
    return f"{value >> 25 & 15:04b}"[1::2] == "10"


def _bytes(name: str, operands: str) -> int:
    """Bytes that a load or store of vector registers moves; a load to all lanes fills a whole register."""
    listed = _LIST.search(operands)
    if listed is None:
        pair = name in ("ldp", "stp", "ldnp", "stnp")
        return (2 if pair else 1) * _SCALARS.get(operands[:1], 16)
    if name == "ld1r":
        return 16
    registers = [part.strip() for part in listed[1].split(",")]
    lane = registers[0].rpartition(".")[2].partition("[")[0]
    return len(registers) * _LANES.get(lane, 8)
