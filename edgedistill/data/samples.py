"""Samples as a source gives them: raw, in memory or on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedistill.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Array


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


def existing_file(path: Path, key: str) -> Path:
    """The path of a file that a recipe names under `key`.

    Raises:
        DataError: there is nothing, or a folder.
    """
    if existing(path, key).is_dir():
        raise DataError(
            f"{path} is a folder", where=f"{key}: {path}", expected="a file", got="a folder", fix="correct the path"
        )
    return path


def existing(path: Path, key: str) -> Path:
    """The path of a file or folder that a recipe names under `key`.

    Raises:
        DataError: there is nothing.
    """
    if not path.exists():
        raise DataError(
            f"there is nothing at {path}",
            where=f"{key}: {path}",
            expected="an existing file or folder (relative paths are taken from the recipe's folder)",
            got="nothing",
            fix="correct the path",
        )
    return path
