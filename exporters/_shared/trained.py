"""Tensors of a torch graph found again in a file, by their values on the same samples.

A converter renames tensors and changes their layout (TFLite keeps channels last); the values, sorted, stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.types import Array, TrainedRange

_TOLERANCE = 1e-3
"""Of the largest magnitude. Rounding of another order of summation stays below; different tensors are far above."""
_LEAST = 1e-6


def trained_ends(
    trained: Sequence[TrainedRange], tensors: Mapping[str, Sequence[Array]]
) -> dict[str, tuple[float, float]]:
    """(low, high) of every tensor of a file whose range was trained.

    Args:
        trained: tensors of the torch graph, with their values for the first samples.
        tensors: a file's float tensors by name, with their values for the same samples.
    """
    known: dict[int, list[tuple[TrainedRange, list[Array]]]] = {}
    for one in trained:
        known.setdefault(one.probes[0].size, []).append((one, [np.sort(p, axis=None) for p in one.probes]))
    found = {}
    for name, values in tensors.items():
        candidates = known.get(values[0].size, [])
        own = [np.sort(v, axis=None) for v in values] if candidates else []
        apart = [_apart(probes, own) for _, probes in candidates]
        if apart and min(apart) <= _TOLERANCE:
            one, _ = candidates[int(np.argmin(apart))]
            found[name] = (one.low, one.high)
    return found


def _apart(probes: Sequence[Array], values: Sequence[Array]) -> float:
    """Largest difference of sorted values, relative to the largest magnitude, over the samples."""
    return max(
        float(np.abs(probe - value).max() / max(float(np.abs(probe).max()), _LEAST))
        for probe, value in zip(probes, values, strict=False)
    )
