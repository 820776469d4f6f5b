"""Arrays in .npz files."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.data.samples import Raw, Samples, existing
from edgedistill.errors import DataError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.recipe.data import NpzData
    from edgedistill.types import Array


def read_npz_array(path: Path, key: str) -> Array:
    """One array of an .npz file, pickles refused.

    Raises:
        DataError: the file or the array is missing or unreadable.
    """
    existing(path, key)
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            if key in names:
                return np.asarray(archive[key])
    except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path.name} cannot be read: {error}",
            where=str(path),
            expected="an .npz file of plain arrays (numpy.savez), no pickled objects",
            got=str(error),
            fix="write it with numpy.savez(path, x=inputs, y=labels)",
        ) from error
    raise DataError(
        f"{path.name} has no array named {key!r}",
        where=str(path),
        expected=nearest(key, names),
        got=repr(key),
        fix="set data.inputs and data.labels_key to the names in the file",
    )


def as_images(array: Array, layout: str, where: str) -> Array:
    """Raw samples as float32 in the model's layout (`layout` as in the recipe).

    Raises:
        DataError: not numbers, or looks like NHWC without being declared so.
    """
    if array.dtype.kind not in "fiub":
        raise DataError(
            "samples are not numbers",
            where=where,
            expected="an array of floats or integers",
            got=f"dtype {array.dtype}",
            fix="save plain numeric arrays",
        )
    if array.ndim < 2 or 0 in array.shape[1:] or (layout == "NHWC" and array.ndim != 4):  # N, H, W, C
        raise DataError(
            f"samples of shape {array.shape[1:]} do not have the layout {layout!r}",
            where=where,
            expected="(N, H, W, C)" if layout == "NHWC" else "at least one axis besides the samples, and none empty",
            got=f"shape {array.shape}",
            fix="correct data.layout or the array",
        )
    if layout == "NHWC":
        array = np.moveaxis(array, -1, 1)
    elif layout == "auto" and array.ndim == 4 and array.shape[-1] in (1, 3, 4) and array.shape[1] not in (1, 3, 4):
        raise DataError(
            f"samples of shape {array.shape[1:]} look like images with channels last",
            where=where,
            expected="channels first (N, C, H, W), or `layout: NHWC` to have them turned",
            got=f"shape {array.shape}",
            fix="add `layout: NHWC` to the recipe's data section",
        )
    elif layout == "auto" and array.ndim == 3:  # N, H, W
        array = array[:, None]
    return np.ascontiguousarray(array, dtype=np.float32)


def read_npz(source: NpzData, beside: Path) -> Raw:
    """The arrays of a recipe's file, or of its two files."""

    def read(name: str) -> Samples:
        path = beside / name
        inputs = as_images(read_npz_array(path, source.inputs), source.layout, f"{path}, array {source.inputs}")
        labels = read_npz_array(path, source.labels_key)
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels  # a column
        return Samples(inputs, labels, str(path))

    evaluation = read(source.evaluation_path) if source.evaluation_path else None
    return Raw(read(source.path), evaluation, None, "as stored in the .npz")
