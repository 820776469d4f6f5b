"""Which magnitude of an activation becomes 127, from calibration samples that are read one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.errors import DataError
from edgedistill.types import QuantizationScheme

from .integers import LEVELS
from .look_inside import blobs, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from edgedistill.types import Array, Artifact

SCHEMES = (
    QuantizationScheme("min-max", {"threshold": "max"}, placement="all layers"),
    QuantizationScheme("percentile", {"threshold": "percentile"}, placement="all layers"),
    QuantizationScheme("mse", {"threshold": "mse"}, placement="all layers"),
    QuantizationScheme(
        "min-max-float-depthwise", {"threshold": "max", "float": ["ConvolutionDepthWise"]}, placement="float depthwise"
    ),
)
"""The last one because ncnn's integer depthwise convolutions can be slower than its float ones."""
_BINS = 2048
_PERCENT = 99.99
_TRIED = 64
"""Thresholds from an eighth of the largest magnitude to all of it."""


def thresholds(
    artifact: Artifact, names: Sequence[str], calibration: Mapping[str, Array], scheme: QuantizationScheme
) -> dict[str, float]:
    """Blob -> magnitude: the largest of all samples, or by a second pass from a histogram of magnitudes.

    Memory holds one sample's blobs and a histogram for each name.

    Raises:
        DataError: there are no samples, or a blob is not finite for one of them.
    """
    if not names:
        return {}
    if not all(len(rows) for rows in calibration.values()):
        raise _unfit("there are no calibration samples")
    net, largest = opened(artifact), dict.fromkeys(names, 0.0)
    for number, found in enumerate(blobs(artifact, net, names, _samples(calibration))):
        for name, blob in found.items():
            top = float(np.abs(blob).max())
            if not np.isfinite(top):
                raise _unfit(f"blob {name} of {artifact.id} is not finite for sample {number}")
            largest[name] = max(largest[name], top)
    choose = _CHOICES.get(scheme.options["threshold"])
    if choose is None:
        return largest
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    for found in blobs(artifact, net, names, _samples(calibration)):
        for name, blob in found.items():
            counts[name] += _histogram(blob, largest[name])
    return {name: largest[name] * choose(counts[name]) for name in names}


def _samples(calibration: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    count = min(len(rows) for rows in calibration.values())
    return ({name: rows[i] for name, rows in calibration.items()} for i in range(count))


def _histogram(blob: Array, largest: float) -> Array:
    """Counts of magnitudes in equal bins up to the largest; zeros, which every scale holds exactly, are left out."""
    magnitudes = np.abs(blob[blob != 0])
    places = np.minimum((magnitudes * (_BINS / (largest or 1.0))).astype(np.int64), _BINS - 1)
    return np.bincount(places, minlength=_BINS)


def _percentile(counts: Array) -> float:
    """Share of the largest magnitude below which 99.99 % of the values lie."""
    below = np.cumsum(counts) >= counts.sum() * _PERCENT / 100
    return float((np.argmax(below) + 1) / _BINS)


def _least_error(counts: Array) -> float:
    """Share of the largest magnitude at which rounding and clipping have the smallest squared error."""
    centres = (np.arange(_BINS) + 0.5) / _BINS
    tried = np.linspace(1 / 8, 1, _TRIED)
    steps = tried[:, None] / LEVELS
    kept = np.minimum(np.rint(centres / steps), LEVELS) * steps
    errors = ((kept - centres) ** 2) @ counts
    return float(tried[len(tried) - 1 - np.argmin(errors[::-1])])  # of equals the largest


def _unfit(why: str) -> DataError:
    return DataError(
        why,
        where="calibration",
        expected="samples of finite numbers for which the model's tensors are finite",
        got=why,
        fix="give other calibration samples",
    )


_CHOICES: dict[str, Callable[[Array], float]] = {"percentile": _percentile, "mse": _least_error}
