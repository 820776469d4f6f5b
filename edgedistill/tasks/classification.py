"""Classification: logits (n, classes), one class number a sample, top-1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.statistics.intervals import Interval, wilson
from edgedistill.types import Normalization, Signature, TensorSpec

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from edgedistill.data.splits import Data
    from edgedistill.documents.artifacts import Quality
    from edgedistill.types import Array

METRIC = "top1"
HIGHER_IS_BETTER = True


def correct(logits: Float[Array, "n ..."], labels: Int[Array, " n"]) -> Bool[Array, " n"]:
    """Whether the highest logit is the labelled class; a sample with NaN logits is wrong.

    One value a sample (n,) is the class number itself, as a graph with argmax gives it.
    """
    if logits.ndim == 1:
        same: Array = logits == labels
        return same
    right: Array = (logits.argmax(axis=1) == labels) & np.isfinite(logits).all(axis=1)
    return right


def quality(logits: Float[Array, "n ..."], labels: Int[Array, " n"]) -> Quality:
    """The report's quality object: top-1 with n and Wilson's 95% interval."""
    return quality_json(wilson(int(correct(logits, labels).sum()), len(labels)))


def quality_json(interval: Interval) -> Quality:
    """An interval as the report writes it."""
    return {
        "metric": METRIC,
        "value": interval.value,
        "n": interval.n,
        "ci95": [interval.low, interval.high],
        "method": "Wilson score interval",
    }


def signature(data: Data) -> Signature:
    """The signature that every artifact of these data has: one float input, one row of logits."""
    shape = data.sample_shape
    image = len(shape) == 3  # channels, height, width
    return Signature(
        (TensorSpec("image" if image else "input", ("batch", *shape), "float32", "NCHW" if image else ""),),
        (TensorSpec("logits", ("batch", data.classes), "float32"),),
        Normalization(data.normalization.mean, data.normalization.std, data.normalization.raw),
        data.class_names,
    )
