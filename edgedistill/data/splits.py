"""From raw samples to the model-ready training and evaluation splits, stored as plain .npy files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.data.preparation import apply, fitted
from edgedistill.data.samples import Raw, Samples
from edgedistill.errors import DataError
from edgedistill.types import Array, Json, Normalization

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from edgedistill.recipe.document import Normalize


@dataclass(frozen=True)
class Data:
    """Model-ready splits: inputs (n, ...) float32, labels (n,) int64; the arrays may be memory-mapped."""

    train_inputs: Array
    train_labels: Array
    eval_inputs: Array
    eval_labels: Array
    class_names: tuple[str, ...]
    normalization: Normalization

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one model-ready sample."""
        return tuple(int(d) for d in self.train_inputs.shape[1:])


def prepare(
    raw: Raw,
    normalize: Literal["auto", "none"] | Normalize,
    evaluation_fraction: float,
    seed: int,
    unlabelled: Array | None = None,
) -> Data:
    """Split and normalise. Statistics are those of the labelled training split alone.

    Unlabelled samples (raw) come after the training split, with the label -1.

    Raises:
        DataError: a class has too few samples to stand in both splits, or the normalisation does not fit.
    """
    train, evaluation = (raw.train, raw.evaluation) if raw.evaluation else _split(raw.train, evaluation_fraction, seed)
    count = 1 + int(max(train.labels.max(), evaluation.labels.max()))
    if np.unique(train.labels).size < 2:  # a classifier chooses between at least two
        raise DataError(
            "the training samples are all of one class",
            where=train.where,
            expected="samples of at least two classes",
            got=f"only class {int(train.labels[0])}",
            fix="add samples of the other classes",
        )
    names = raw.class_names or tuple(str(n) for n in range(count))
    normalization = fitted(train, normalize, raw.unit)
    inputs, labels = apply(normalization, train.inputs), train.labels.astype(np.int64)
    if unlabelled is not None:
        if unlabelled.shape[1:] != train.inputs.shape[1:] or not np.isfinite(unlabelled).all():
            raise DataError(
                "the unlabelled samples do not fit the others",
                where="data.unlabelled, array x",
                expected=f"finite samples of shape {train.inputs.shape[1:]}, as in {train.where}",
                got=f"{len(unlabelled)} samples of shape {unlabelled.shape[1:]}",
                fix="bring them to the same shape, and clean or drop those with NaN",
            )
        inputs = np.concatenate([inputs, apply(normalization, unlabelled)])
        labels = np.concatenate([labels, np.full(len(unlabelled), -1, dtype=np.int64)])
    return Data(
        inputs,
        labels,
        apply(normalization, evaluation.inputs),
        evaluation.labels.astype(np.int64),
        names,
        normalization,
    )


def save(data: Data, folder: Path) -> None:
    """Write the splits and their description."""
    for name in ("train_inputs", "train_labels", "eval_inputs", "eval_labels"):
        np.save(folder / f"{name}.npy", getattr(data, name), allow_pickle=False)
    norm = data.normalization
    document: Json = {
        "class_names": list(data.class_names),
        "normalization": {"mean": list(norm.mean), "std": list(norm.std), "raw": norm.raw},
        "train_samples": len(data.train_labels),
        "eval_samples": len(data.eval_labels),
    }
    (folder / "data.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def load(folder: Path) -> Data:
    """Read what `save` wrote; the arrays stay on disk until they are used."""
    document = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    norm = document["normalization"]

    def array(name: str) -> Array:
        loaded: Array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return loaded

    return Data(
        array("train_inputs"),
        array("train_labels"),
        array("eval_inputs"),
        array("eval_labels"),
        tuple(document["class_names"]),
        Normalization(tuple(norm["mean"]), tuple(norm["std"]), norm["raw"]),
    )


def _split(samples: Samples, evaluation_fraction: float, seed: int) -> tuple[Samples, Samples]:
    """Stratified and seeded (scikit-learn)."""
    from sklearn.model_selection import train_test_split

    counts = np.bincount(samples.labels.astype(np.int64))
    rare = [int(c) for c in np.flatnonzero((counts > 0) & (counts < 2))]  # one for each split
    if rare:
        raise DataError(
            f"class {rare[0]} has a single sample and cannot stand in both splits",
            where=samples.where,
            expected="at least 2 samples of every class",
            got=f"1 sample of class {rare[0]}",
            fix="add samples, drop the class, or give an evaluation split of your own",
        )
    try:
        train, evaluation = train_test_split(
            np.arange(len(samples.labels)),
            test_size=evaluation_fraction,
            stratify=samples.labels,
            random_state=seed,
        )
    except ValueError as error:
        raise DataError(
            f"the samples cannot be split by class: {error}",
            where=samples.where,
            expected="both splits to hold every class",
            got=f"{len(samples.labels)} samples, evaluation_fraction {evaluation_fraction}",
            fix="add samples or change data.evaluation_fraction",
        ) from error

    lost = set(samples.labels.tolist()) - (
        set(samples.labels[train].tolist()) & set(samples.labels[evaluation].tolist())
    )
    if lost:
        rarest = int(min(lost))
        raise DataError(
            f"class {rarest} has too few samples to stand in both splits",
            where=samples.where,
            expected="both splits to hold every class",
            got=f"{counts[rarest]} samples of class {rarest}, evaluation_fraction {evaluation_fraction}",
            fix="add samples or change data.evaluation_fraction",
        )

    def part(rows: object) -> Samples:
        ordered = np.sort(np.asarray(rows))
        return Samples(samples.inputs[ordered], samples.labels[ordered], samples.where)

    return part(train), part(evaluation)
