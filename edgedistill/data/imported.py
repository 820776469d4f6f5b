"""Data sets that a user's own code makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.data.npz import as_images
from edgedistill.data.samples import Raw, Samples
from edgedistill.errors import DataError
from edgedistill.user_code import call

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.recipe.data import ImportData
    from edgedistill.types import Array


def read_imported(source: ImportData, beside: Path) -> Raw:
    """The data sets that a recipe's function gives: one, or training and evaluation."""
    given = call(source.function, source.arguments, beside)
    if isinstance(given, tuple) and len(given) != 2:  # training, evaluation
        raise DataError(
            f"{source.function} returned {len(given)} Datasets",
            where=source.function,
            expected="a torch Dataset, or a pair (training, evaluation)",
            got=f"a tuple of {len(given)}",
            fix="return one Dataset, or two",
        )
    train, evaluation = given if isinstance(given, tuple) else (given, None)
    evaluation_samples = None if evaluation is None else _from_dataset(evaluation, source.function)
    return Raw(_from_dataset(train, source.function), evaluation_samples, None, "as the Dataset gives it")


def _from_dataset(dataset: Any, where: str) -> Samples:
    """Materialise a map-style torch Dataset of (input, label)."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or len(dataset) == 0:
        raise DataError(
            f"{where} did not return a Dataset with samples",
            where=where,
            expected="a torch Dataset with __len__ and __getitem__, or a pair (training, evaluation)",
            got=type(dataset).__name__,
            fix="return torch.utils.data.TensorDataset(inputs, labels), for example",
        )
    try:
        pairs = [dataset[i] for i in range(len(dataset))]
        inputs = np.stack([_plain(x) for x, _ in pairs]).astype(np.float32)
        labels = np.array([_plain(y).item() for _, y in pairs])
    except Exception as error:
        raise DataError(
            f"samples of {where} are not pairs of an array and a class number: {error}",
            where=where,
            expected="(array of one shape, integer) for every index",
            got=f"{type(error).__name__}: {error}",
            fix="return such pairs from __getitem__",
        ) from error
    return Samples(as_images(inputs, "as-is", where), labels, where)


def _plain(value: Any) -> Array:
    """An array of a tensor, with gradients or without, or of anything array-like."""
    return np.asarray(value.detach() if hasattr(value, "detach") else value)
