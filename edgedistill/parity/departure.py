"""How far a tensor is from its reference, and when that is too far. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgedistill.documents.answers import DepartureDocument
    from edgedistill.types import Array

_ROUNDING = 0.02
"""Of the largest magnitude: some five of 256 levels, which no 8-bit file is blamed for."""
_FALL_DB, _NEAR_DB = 15.0, 5.0
"""A tensor held against an SNR departs, too, when it falls so far below its sources' and is so near to the floor."""
_MOST_AXES = 5


def finite(value: float) -> float | None:
    """A figure as JSON has it: null where it is infinite or no number."""
    return value if np.isfinite(value) else None


@dataclass(frozen=True)
class Departure:
    """How far a tensor is from its reference.

    `snr_db` is 20 log10(standard deviation of the reference / rms difference): a constant part, which any constant
    tensor would share, does not count. `max_relative` is the largest difference over the largest magnitude.
    """

    snr_db: float
    max_relative: float
    rms_relative: float

    def to_json(self) -> DepartureDocument:
        """JSON form; what is infinite is null."""
        return {"snr_db": finite(self.snr_db), "max_relative": finite(self.max_relative)}


@dataclass(frozen=True)
class Limits:
    """When a tensor departs: beyond `max_relative`, or, where it is set, below `min_snr_db`."""

    max_relative: float = 1e-4
    min_snr_db: float | None = None

    def met(self, found: Departure) -> bool:
        """Whether a tensor agrees with its reference."""
        if self.min_snr_db is None:
            return found.max_relative <= self.max_relative
        return found.snr_db >= self.min_snr_db or found.rms_relative <= _ROUNDING

    def sure(self, found: Departure) -> bool:
        """Whether values alone tell that two tensors are the same: rounding excuses nothing here."""
        return self.met(found) and (self.min_snr_db is None or found.snr_db >= self.min_snr_db)

    def fell(self, found: Departure, level_db: float) -> bool:
        """Whether the SNR of an 8-bit tensor is far below the level of what it is computed from."""
        if self.min_snr_db is None or found.rms_relative <= _ROUNDING:
            return False
        return level_db - found.snr_db >= _FALL_DB and found.snr_db < self.min_snr_db + _NEAR_DB


def departure(reference: Array, candidate: Array) -> Departure:
    """Compare arrays of the same size, element by element, in float64. Infinities must stand at the same places."""
    exact, given = (np.asarray(array, np.float64).ravel() for array in (reference, candidate))
    finite = np.isfinite(exact)
    if not np.array_equal(exact[~finite], given[~finite], equal_nan=True) or not np.isfinite(given[finite]).all():
        return Departure(float("-inf"), float("inf"), float("inf"))
    exact, given = exact[finite], given[finite]
    if not exact.size or np.array_equal(exact, given):
        return Departure(float("inf"), 0.0, 0.0)
    difference = np.abs(exact - given)
    rms, spread, peak = float(np.sqrt(np.mean(difference**2))), float(exact.std()), float(np.abs(exact).max())
    snr = float(20 * np.log10(spread / rms)) if spread and rms else float("-inf") if rms else float("inf")
    return Departure(snr, float(difference.max()) / peak, rms / peak) if peak else Departure(snr, *[float("inf")] * 2)


def laid_out(reference: Array, candidate: Array) -> Departure:
    """The least departure over the layouts that turn one shape into the other; for another rank, channels moved."""
    sizes, wanted = ([d for d in array.shape if d > 1] for array in (reference, candidate))
    squeezed, flat = reference.reshape(sizes), candidate.ravel()
    if sorted(sizes) != sorted(wanted) or len(sizes) > _MOST_AXES:
        ways = [squeezed]
        if len(sizes) > 1:
            ways += [np.moveaxis(squeezed, 0, -1), np.moveaxis(squeezed, -1, 0)]
    else:
        orders = [p for p in permutations(range(len(sizes))) if [sizes[axis] for axis in p] == wanted]
        ways = [squeezed.transpose(order) for order in orders]
    return max((departure(way, flat) for way in ways), key=lambda found: found.snr_db)
