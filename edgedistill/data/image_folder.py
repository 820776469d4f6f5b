"""Folders of images, one a class."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.data.samples import Raw, Samples, existing
from edgedistill.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgedistill.recipe.data import ImageFolderData
    from edgedistill.types import Array


_TRAIN, _EVALUATION = ("train", "training"), ("val", "eval", "test", "validation", "evaluation")
_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


def read_image_folder(source: ImageFolderData, beside: Path) -> Raw:
    """The images of a recipe's folder, in the order of their names."""
    root = existing(beside / source.path, "data.path")
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
    if len(names) < 2:  # a classifier chooses between at least two
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
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)  # grey: H, W


def folder_digest(root: Path) -> str:
    """Names, sizes and times of all files: enough to see a change without reading gigabytes."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        stat = path.stat()
        digest.update(f"{path.relative_to(root)}\0{path.is_dir()}\0".encode())
        if not path.is_dir():
            digest.update(f"{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
