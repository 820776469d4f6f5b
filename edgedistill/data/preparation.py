"""What is done to raw samples before a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.errors import DataError
from edgedistill.recipe.document import Normalize
from edgedistill.types import Array, Normalization

if TYPE_CHECKING:
    from typing import Literal

    from edgedistill.data.samples import Samples


def apply(normalization: Normalization, raw: Array) -> Array:
    """(raw - mean) / std per channel (axis 1), as float32."""
    shape = (1, -1) + (1,) * (raw.ndim - 2)
    mean = np.array(normalization.mean, dtype=np.float32).reshape(shape)
    std = np.array(normalization.std, dtype=np.float32).reshape(shape)
    normalized: Array = ((raw - mean) / std).astype(np.float32)
    return normalized


def fitted(train: Samples, normalize: Literal["auto", "none"] | Normalize, unit: str) -> Normalization:
    """What a recipe says of normalisation, its figures taken from the training split where it says `auto`."""
    channels = train.inputs.shape[1]
    if normalize == "none":
        return Normalization((0.0,), (1.0,), unit)
    if isinstance(normalize, Normalize):
        if len(normalize.mean) not in (1, channels):
            raise DataError(
                "the normalisation does not fit the samples",
                where="data.normalize",
                expected=f"1 value or {channels}, one per channel",
                got=f"{len(normalize.mean)} values",
                fix="correct mean and std",
            )
        return Normalization(tuple(normalize.mean), tuple(normalize.std), unit)
    axes = (0, *range(2, train.inputs.ndim))
    mean = train.inputs.mean(axis=axes, dtype=np.float64)
    std = train.inputs.std(axis=axes, dtype=np.float64)
    std[std < np.finfo(np.float32).tiny] = 1.0  # a constant channel carries nothing; dividing by 0 would make it NaN
    return Normalization(tuple(float(m) for m in mean), tuple(float(s) for s in std), unit)
