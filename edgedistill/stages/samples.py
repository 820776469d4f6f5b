"""Samples that files are calibrated with, judged by and fed, in stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.errors import DataError
from edgedistill.types import file_sha256

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.conversion.candidates import CandidateSamples
    from edgedistill.data.splits import Data
    from edgedistill.stages.work import Work
    from edgedistill.types import Array

CALIBRATION = ("seed", "quantize.samples", "quantize.calibration")
"""Keys of the recipe that decide which samples calibrate; `data.layout` says how a file's are read."""
LAYOUT = "data.layout"
_LARGEST_SHARE = 3
"""At most one in so many training samples is kept out of a training to judge its files."""


def calibration_digest(work: Work) -> str | None:
    """Digest of the recipe's calibration file, if it names one.

    Raises:
        DataError: there is no such file.
    """
    name = work.recipe.quantize.calibration
    if name is None:
        return None
    path = work.beside / name
    if not path.is_file():
        raise DataError(
            f"there is no file at {path}",
            where="quantize.calibration",
            expected="an .npz file with an array x",
            got="nothing",
            fix="correct the path",
        )
    return file_sha256(path)


def calibration(work: Work, data: Data) -> Array:
    """Model-ready calibration samples: training samples, or the file that the recipe names."""
    from edgedistill.data.on_disk import of_mapped

    settings = work.recipe.quantize
    if settings.calibration is None:
        rows = _order(work, data)[: settings.samples]
        return of_mapped(data.train_inputs, np.sort(rows))
    return _of_file(work, data, work.beside / settings.calibration)


def _of_file(work: Work, data: Data, path: Path) -> Array:
    from edgedistill.data.npz import as_images, read_npz_array
    from edgedistill.data.preparation import apply

    layout = work.recipe.data.__dict__.get("layout", "auto")  # only arrays have one
    raw = as_images(read_npz_array(path, "x"), layout, str(path))
    if raw.shape[1:] != data.sample_shape or len(raw) == 0 or not np.isfinite(raw).all():
        raise DataError(
            "the calibration samples do not fit the model",
            where=f"{path}, array x",
            expected=f"finite samples of shape {data.sample_shape}, as the training data",
            got=f"{len(raw)} samples of shape {raw.shape[1:]}",
            fix="calibrate on data of the same shape, or drop quantize.calibration",
        )
    return apply(data.normalization, raw)


def validation_rows(work: Work, data: Data, most: int) -> Array:
    """Labelled training samples that are not among those of calibration, unless all are."""
    settings, order = work.recipe.quantize, _order(work, data)
    rest = order if settings.calibration else order[settings.samples :]
    labelled = rest[np.asarray(data.train_labels)[rest] >= 0]
    rows: Array = np.sort((labelled if len(labelled) else order)[:most])
    return rows


def judging_rows(work: Work, data: Data) -> Array:
    """Rows that judge trained files: some of those that judge calibrated ones, and not learned in the training."""
    most = max(1, len(data.train_labels) // _LARGEST_SHARE)
    return validation_rows(work, data, min(work.recipe.quantize.validation_samples, most))


def candidate_samples(work: Work, data: Data, name: str, rows: Array, out: Path) -> CandidateSamples:
    """Calibration samples, and some of the training split to judge with, as files take them.

    Args:
        work: of the stage.
        data: the splits.
        name: of the files' input.
        rows: of the training split, to judge with.
        out: keeps those until `validation` of the result is removed.
    """
    from edgedistill.conversion.candidates import CandidateSamples
    from edgedistill.data.on_disk import save_npz
    from edgedistill.tasks.classification import correct

    labels = np.asarray(data.train_labels)[rows]
    validation = out / ".validation.npz"
    save_npz(validation, {name: fed(work, data, data.train_inputs[rows])})
    return CandidateSamples(
        {name: fed(work, data, calibration(work, data))},
        validation,
        len(rows),
        lambda outputs, _: float(np.mean(correct(next(iter(outputs.values())), labels))),
    )


def fed(work: Work, data: Data, samples: Array) -> Array:
    """What the files take for these model-ready samples."""
    from edgedistill.models.folding import taken_by

    return taken_by(work.recipe.export.fold, data.normalization, samples)


def _order(work: Work, data: Data) -> Array:
    return np.random.default_rng(work.recipe.seed).permutation(len(data.train_labels))
