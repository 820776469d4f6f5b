"""Ranges of activations without their outliers, from histograms that grow sample by sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgedistill.types import Array

Method = Literal["percentile", "mse"]

_BINS = 2048
_TAIL = 1e-4
"""Share of values that `percentile` leaves out at either end."""
_LEVELS = 255
_SHRINKS = np.linspace(0.2, 1.0, 81)


def clipped_ranges(
    ranges: Mapping[str, tuple[float, float]], samples: Iterable[Mapping[str, Array]], method: Method
) -> dict[str, tuple[float, float]]:
    """Narrower ranges for tensors whose extremes are known.

    Args:
        ranges: name -> (low, high), the extremes over the samples.
        samples: the tensors of each sample; read once, memory does not grow with their number.
        method: `percentile` leaves out the outermost 0.01% of the values at either end; `mse` takes the share of the
            range with the least mean squared error of clipping and of rounding to 256 levels (step^2 / 12 inside).

    Returns:
        name -> (low, high), zero inside.
    """
    ends = {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in ranges.items()}
    counts = {name: np.zeros(_BINS) for name, (low, high) in ends.items() if high > low}
    for tensors in samples:
        for name in counts.keys() & tensors.keys():
            counts[name] += np.histogram(tensors[name], _BINS, ends[name])[0]
    narrow = _without_tails if method == "percentile" else _least_error
    return {
        name: narrow(counts[name], *ends[name]) if name in counts and counts[name].any() else ends[name]
        for name in ends
    }


def _without_tails(counts: Array, low: float, high: float) -> tuple[float, float]:
    edges = np.linspace(low, high, _BINS + 1)
    share = np.cumsum(counts) / counts.sum()
    first = int(np.searchsorted(share, _TAIL, side="right"))
    last = int(np.searchsorted(share, 1 - _TAIL))
    return min(float(edges[first]), 0.0), max(float(edges[last + 1]), 0.0)


def _least_error(counts: Array, low: float, high: float) -> tuple[float, float]:
    edges = np.linspace(low, high, _BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2

    def error(shrink: float) -> float:
        outside = centres - np.clip(centres, shrink * low, shrink * high)
        rounding = ((high - low) * shrink / _LEVELS) ** 2 / 12
        return float(counts @ np.where(outside == 0, rounding, outside**2))

    best = min(_SHRINKS[::-1], key=error)
    return float(best * low), float(best * high)
