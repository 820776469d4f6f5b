"""Where samples come from: each source gives raw arrays, checked, with its own split if it has one."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.errors import DataError, nearest
from edgedistill.imports import call, source_digest
from edgedistill.recipe import DigitsData, ImageFolderData, ImportData, NpzData
from edgedistill.types import Array, Json, file_sha256

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
_TRAIN, _EVALUATION = ("train", "training"), ("val", "eval", "test", "validation", "evaluation")

Source = DigitsData | NpzData | ImageFolderData | ImportData


@dataclass(frozen=True)
class Samples:
    """Raw samples (n, ...) as float32, class numbers (n,) as int64, and where they came from."""

    inputs: Array
    labels: Array
    where: str


@dataclass(frozen=True)
class Raw:
    """What a source gives. `evaluation` is None when the source has no split of its own."""

    train: Samples
    evaluation: Samples | None
    class_names: tuple[str, ...] | None
    unit: str


def source_key(source: Source, beside: Path) -> Json:
    """What the source's content depends on, cheap enough to compute at every start.

    Raises:
        DataError: a file or folder is missing.
    """
    key: Json = {"source": source.model_dump(mode="json")}
    match source:
        case NpzData():
            paths = [p for p in (source.path, source.evaluation_path) if p]
            key["files"] = [file_sha256(_existing_file(beside / p, "data")) for p in paths]
        case ImageFolderData():
            key["listing"] = _folder_digest(_existing(beside / source.path, "data.path"))
        case ImportData():
            key["code"] = source_digest(source.function, beside)
            key["files"] = [file_sha256(_existing_file(beside / p, "data.depends")) for p in source.depends]
        case DigitsData():
            pass
    if source.unlabelled is not None:
        key["unlabelled"] = file_sha256(_existing_file(beside / source.unlabelled, "data.unlabelled"))
    return key


def load_unlabelled(source: Source, beside: Path) -> Array | None:
    """The further samples without labels, if the recipe names a file of them.

    Raises:
        DataError: missing, unreadable, or not numbers.
    """
    if source.unlabelled is None:
        return None
    path = beside / source.unlabelled
    layout = source.layout if isinstance(source, NpzData) else "auto"
    return as_images(read_npz_array(path, "x"), layout, f"{path}, array x")


def load_source(source: Source, beside: Path) -> Raw:
    """Read and check the samples.

    Raises:
        DataError: missing, unreadable, not numbers, not finite, or labels that are no class numbers.
    """
    match source:
        case DigitsData():
            raw = _digits()
        case NpzData():
            raw = _npz(source, beside)
        case ImageFolderData():
            raw = _image_folder(source, beside)
        case ImportData():
            raw = _imported(source, beside)
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


def read_npz_array(path: Path, key: str) -> Array:
    """One array of an .npz file, pickles refused.

    Raises:
        DataError: the file or the array is missing or unreadable.
    """
    _existing(path, key)
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
    if array.ndim < 2 or 0 in array.shape[1:] or (layout == "NHWC" and array.ndim != 4):  # noqa: PLR2004 - N, H, W, C
        raise DataError(
            f"samples of shape {array.shape[1:]} do not have the layout {layout!r}",
            where=where,
            expected="(N, H, W, C)" if layout == "NHWC" else "at least one axis besides the samples, and none empty",
            got=f"shape {array.shape}",
            fix="correct data.layout or the array",
        )
    if layout == "NHWC":
        array = np.moveaxis(array, -1, 1)
    elif layout == "auto" and array.ndim == 4 and array.shape[-1] in (1, 3, 4) and array.shape[1] not in (1, 3, 4):  # noqa: PLR2004
        raise DataError(
            f"samples of shape {array.shape[1:]} look like images with channels last",
            where=where,
            expected="channels first (N, C, H, W), or `layout: NHWC` to have them turned",
            got=f"shape {array.shape}",
            fix="add `layout: NHWC` to the recipe's data section",
        )
    elif layout == "auto" and array.ndim == 3:  # noqa: PLR2004 - N, H, W
        array = array[:, None]
    return np.ascontiguousarray(array, dtype=np.float32)


def _digits() -> Raw:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    samples = Samples(digits.images.astype(np.float32)[:, None], digits.target.astype(np.int64), "scikit-learn digits")
    return Raw(samples, None, tuple(str(n) for n in digits.target_names), "pixel, 0 to 16")


def _npz(source: NpzData, beside: Path) -> Raw:
    def read(name: str) -> Samples:
        path = beside / name
        inputs = as_images(read_npz_array(path, source.inputs), source.layout, f"{path}, array {source.inputs}")
        labels = read_npz_array(path, source.labels_key)
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels  # noqa: PLR2004 - a column
        return Samples(inputs, labels, str(path))

    evaluation = read(source.evaluation_path) if source.evaluation_path else None
    return Raw(read(source.path), evaluation, None, "as stored in the .npz")


def _image_folder(source: ImageFolderData, beside: Path) -> Raw:
    root = _existing(beside / source.path, "data.path")
    if not root.is_dir():
        raise DataError(
            f"{root} is not a folder",
            where=str(root),
            expected="a folder with one folder per class",
            got="a file",
            fix="set data.path to the folder, or data.source to npz",
        )
    below = {p.name.lower(): p for p in sorted(root.iterdir()) if p.is_dir()}
    train = next((below[name] for name in _TRAIN if name in below), None)
    evaluation = next((below[name] for name in _EVALUATION if name in below), None)
    if train is None or evaluation is None:
        train, evaluation = root, None
    names = sorted(p.name for p in train.iterdir() if p.is_dir())
    if len(names) < 2:  # noqa: PLR2004 - a classifier chooses between at least two
        raise DataError(
            f"{train} has {len(names)} class folders",
            where=str(train),
            expected="at least two folders, one per class",
            got=f"{names}",
            fix="put the images of each class into a folder of its own",
        )
    evaluation_samples = _read_folder(evaluation, names, source) if evaluation else None
    return Raw(_read_folder(train, names, source), evaluation_samples, tuple(names), "pixel / 255, 0 to 1")


def _read_folder(root: Path, names: Sequence[str], source: ImageFolderData) -> Samples:
    images: list[Array] = []
    labels: list[int] = []
    for number, name in enumerate(names):
        folder = root / name
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _IMAGES) if folder.is_dir() else []
        if not files:
            raise DataError(
                f"the class folder {name!r} holds no image",
                where=str(folder),
                expected=f"images ({', '.join(sorted(_IMAGES))})",
                got="an empty folder" if folder.is_dir() else "no such folder",
                fix="add images to it or remove the folder",
            )
        for file in files:
            image = _read_image(file, source)
            if images and image.shape != images[0].shape:
                raise DataError(
                    "images are not all of one size",
                    where=str(file),
                    expected=f"{images[0].shape[1]} x {images[0].shape[2]} pixels, as the first image",
                    got=f"{image.shape[1]} x {image.shape[2]}",
                    fix="set data.size: [height, width] to have all resized",
                )
            images.append(image)
            labels.append(number)
    return Samples(np.stack(images), np.array(labels, dtype=np.int64), str(root))


def _read_image(file: Path, source: ImageFolderData) -> Array:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            image = opened.convert(source.mode)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(
            f"{file.name} cannot be read as an image: {error}",
            where=str(file),
            expected="an image file",
            got=str(error),
            fix="replace or remove the file",
        ) from error
    if source.size is not None:
        image = image.resize((source.size[1], source.size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float32) / 255.0
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)  # noqa: PLR2004 - grey: H, W


def _imported(source: ImportData, beside: Path) -> Raw:
    given = call(source.function, source.arguments, beside)
    if isinstance(given, tuple) and len(given) != 2:  # noqa: PLR2004 - training, evaluation
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


def _existing_file(path: Path, key: str) -> Path:
    if _existing(path, key).is_dir():
        raise DataError(
            f"{path} is a folder", where=f"{key}: {path}", expected="a file", got="a folder", fix="correct the path"
        )
    return path


def _existing(path: Path, key: str) -> Path:
    if not path.exists():
        raise DataError(
            f"there is nothing at {path}",
            where=f"{key}: {path}",
            expected="an existing file or folder (relative paths are taken from the recipe's folder)",
            got="nothing",
            fix="correct the path",
        )
    return path


def _folder_digest(root: Path) -> str:
    """Names, sizes and times of all files: enough to see a change without reading gigabytes."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        stat = path.stat()
        digest.update(f"{path.relative_to(root)}\0{path.is_dir()}\0".encode())
        if not path.is_dir():
            digest.update(f"{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
