"""Where samples come from: each source gives raw arrays, checked, with its own split if it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.data.image_folder import folder_digest, read_image_folder
from edgedistill.data.imported import read_imported
from edgedistill.data.npz import as_images, read_npz, read_npz_array
from edgedistill.data.samples import Raw, Samples, existing, existing_file
from edgedistill.errors import DataError
from edgedistill.recipe.data import DigitsData, ImageFolderData, ImportData, NpzData
from edgedistill.types import Array, Json, file_sha256
from edgedistill.user_code import source_digest

if TYPE_CHECKING:
    from pathlib import Path


DataSection = DigitsData | NpzData | ImageFolderData | ImportData


def source_key(source: DataSection, beside: Path) -> Json:
    """What the source's content depends on, cheap enough to compute at every start.

    Raises:
        DataError: a file or folder is missing.
    """
    key: Json = {"source": source.model_dump(mode="json")}
    match source:
        case NpzData():
            paths = [p for p in (source.path, source.evaluation_path) if p]
            key["files"] = [file_sha256(existing_file(beside / p, "data")) for p in paths]
        case ImageFolderData():
            key["listing"] = folder_digest(existing(beside / source.path, "data.path"))
        case ImportData():
            key["code"] = source_digest(source.function, beside)
            key["files"] = [file_sha256(existing_file(beside / p, "data.depends")) for p in source.depends]
        case DigitsData():
            pass
    if source.unlabelled is not None:
        key["unlabelled"] = file_sha256(existing_file(beside / source.unlabelled, "data.unlabelled"))
    return key


def load_unlabelled(source: DataSection, beside: Path) -> Array | None:
    """The further samples without labels, if the recipe names a file of them.

    Raises:
        DataError: missing, unreadable, or not numbers.
    """
    if source.unlabelled is None:
        return None
    path = beside / source.unlabelled
    layout = source.layout if isinstance(source, NpzData) else "auto"
    return as_images(read_npz_array(path, "x"), layout, f"{path}, array x")


def load_source(source: DataSection, beside: Path) -> Raw:
    """Read and check the samples.

    Raises:
        DataError: missing, unreadable, not numbers, not finite, or labels that are no class numbers.
    """
    match source:
        case DigitsData():
            raw = _digits()
        case NpzData():
            raw = read_npz(source, beside)
        case ImageFolderData():
            raw = read_image_folder(source, beside)
        case ImportData():
            raw = read_imported(source, beside)
    names = tuple(source.labels) if source.labels else raw.class_names
    raw = Raw(raw.train, raw.evaluation, names, raw.unit)
    for samples in (raw.train, raw.evaluation):
        if samples is not None:
            _check(samples, names)
    if raw.evaluation is not None and raw.evaluation.inputs.shape[1:] != raw.train.inputs.shape[1:]:
        raise DataError(
            "evaluation samples have another shape than training samples",
            where=raw.evaluation.where,
            expected=f"samples of shape {raw.train.inputs.shape[1:]}, as in {raw.train.where}",
            got=f"{raw.evaluation.inputs.shape[1:]}",
            fix="bring both splits to one shape",
        )
    return raw


def _digits() -> Raw:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    samples = Samples(digits.images.astype(np.float32)[:, None], digits.target.astype(np.int64), "scikit-learn digits")
    return Raw(samples, None, tuple(str(n) for n in digits.target_names), "pixel, 0 to 16")


def _check(samples: Samples, names: tuple[str, ...] | None) -> None:
    inputs, labels = samples.inputs, samples.labels
    if labels.ndim != 1 or len(labels) != len(inputs) or len(labels) == 0:
        raise DataError(
            "samples and labels do not match",
            where=samples.where,
            expected=f"one label for each of the {len(inputs)} samples",
            got=f"labels of shape {labels.shape}",
            fix="save one class number per sample",
        )
    bad = np.flatnonzero(~np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1))
    if bad.size:
        raise DataError(
            f"{bad.size} samples hold NaN or infinite values",
            where=f"{samples.where}, sample {bad[0]}",
            expected="finite numbers",
            got=f"NaN or infinity in samples {bad[:5].tolist()}",
            fix="clean or drop these samples",
        )
    whole = labels.dtype.kind in "iub" or (
        labels.dtype.kind == "f" and np.isfinite(labels).all() and not (labels % 1).any()
    )
    if not whole:
        raise DataError(
            "labels are not class numbers",
            where=samples.where,
            expected="integers from 0",
            got=f"dtype {labels.dtype}, first {labels[0]!r}",
            fix="number the classes 0, 1, 2, ...",
        )
    highest = len(names) - 1 if names else None
    outside = np.flatnonzero((labels < 0) | ((labels > highest) if highest is not None else False))
    if outside.size:
        raise DataError(
            f"labels out of range: {outside.size} samples",
            where=f"{samples.where}, sample {outside[0]}",
            expected=f"0 to {highest}, the {len(names)} classes of `labels`" if names else "0 or more",
            got=f"label {labels[outside[0]]}",
            fix="renumber the labels, or correct data.labels",
        )
