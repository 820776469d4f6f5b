"""Do two runtimes compute the same from one file? Pure numpy over both runtimes' outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.types import Precision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.types import Array

_RELATIVE = 1e-5
_LEVELS = 255
_ROUNDING = 1.01
"""Steps: both runtimes round the product of step and integer to float32."""


def disagreement(
    reference: Mapping[str, Array], other: Mapping[str, Array], steps: Sequence[float], precision: Precision
) -> str:
    """How far a runtime departs from the format's reference runtime, in words; empty where both agree.

    Integer outputs may differ by one step (LSB); float ones of a file that computes on integers by one of 255 steps
    over their range; other float ones by 1e-5 of their largest magnitude.

    Args:
        reference: output name -> (samples, ...), of the reference runtime.
        other: likewise, in the same order.
        steps: the unit of each output where it is an integer, else 0.
        precision: of the file.
    """
    integers = precision in (Precision.INT8_STATIC, Precision.INT8_QAT)
    for (name, expected), given, step in zip(reference.items(), other.values(), steps, strict=True):
        if expected.shape != given.shape or not np.isfinite(given).all():
            return f"{name} has another shape, or values that are not finite"
        far = float(np.abs(expected.astype(np.float64) - given).max())
        unit = step or (float(np.ptp(expected)) / _LEVELS if integers else 0.0)
        if unit and far > _ROUNDING * unit:
            return f"{name} departs by {far / unit:.0f} steps of 8 bits (1 allowed, n = {len(expected)} samples)"
        scale = float(np.abs(expected).max())
        if not unit and far > _RELATIVE * scale:
            return f"{name} departs by {far / scale:.1e} of its magnitude (1e-5 allowed, n = {len(expected)} samples)"
    return ""


def against_reference(
    outputs: Mapping[str, Mapping[str, Array]], reference: str, steps: Sequence[float], precision: Precision
) -> dict[str, str]:
    """Runtime -> how it departs from the reference runtime, of those that do. `outputs`: runtime -> its outputs."""
    if reference not in outputs:
        return {}
    told = {
        runtime: disagreement(outputs[reference], own, steps, precision)
        for runtime, own in outputs.items()
        if runtime != reference
    }
    return {runtime: f"departs from {reference}: {why}" for runtime, why in told.items() if why}
