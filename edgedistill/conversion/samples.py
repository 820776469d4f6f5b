"""Samples of one's own: whether they fit a model, and how candidates of quantisation are judged with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.conversion.candidates import CandidateSamples, error_power
from edgedistill.data.on_disk import save_npz, some
from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgedistill.conversion.candidates import Outputs
    from edgedistill.types import Array, Signature

LABELS = "labels"
"""The array of class numbers among validation samples."""
_HELD_OUT = 500
_SHARE = 4


def judged(
    inputs: Mapping[str, Array],
    calibration: Mapping[str, Array] | None,
    validation: Mapping[str, Array] | None,
    path: Path,
) -> CandidateSamples:
    """What candidates are made and judged with; the validation samples are written to `path`.

    Without validation samples the last quarter of those for calibration (500 at most) is kept from it; without those
    too, the samples that prove the files serve. With class numbers the quality is top-1, else the share of the
    outputs' power that the file keeps: 1 - error power / power of the fp32 file's, 0.99 being 20 dB.

    Args:
        inputs: input name -> samples that prove the files, in the order of the model's inputs.
        calibration: input name -> samples.
        validation: likewise, and `labels`.
        path: of an .npz.
    """
    labels = None
    if validation is not None and LABELS in validation and LABELS not in inputs:
        labels = np.asarray(validation[LABELS])
    ranges, judging = calibration or inputs, validation or calibration or inputs
    count = len(next(iter(ranges.values())))
    if validation is None and calibration is not None and count >= _SHARE:
        kept = count - min(count // _SHARE, _HELD_OUT)
        judging = {name: some(rows, slice(kept, None)) for name, rows in ranges.items()}
        ranges = {name: some(rows, slice(kept)) for name, rows in ranges.items()}
    save_npz(path, {name: judging[name] for name in inputs})
    return CandidateSamples(
        {name: ranges[name] for name in inputs},
        path,
        len(judging[next(iter(inputs))]),
        _kept_power if labels is None else _top1(labels),
        "kept power" if labels is None else "top1",
    )


def _kept_power(outputs: Outputs, reference: Outputs) -> float:
    """Of the output that keeps least: 1 - error power / power."""
    return min(1 - error_power({name: outputs[name]}, {name: values}) for name, values in reference.items())


def _top1(labels: Array) -> Callable[[Outputs, Outputs], float]:
    """Share of the samples whose largest first output is the one of their class."""

    def score(outputs: Outputs, reference: Outputs) -> float:
        del reference
        first = next(iter(outputs.values()))
        return float(np.mean(first.reshape(len(first), -1).argmax(axis=1) == labels))

    return score


def check_samples(signature: Signature, arrays: Mapping[str, Array], where: str, also: tuple[str, ...] = ()) -> None:
    """Samples must have the signature's names and shapes, and one another's number; `also`: names that may be there.

    Raises:
        UsageError: they do not.
    """
    names = [spec.name for spec in signature.inputs]
    if set(arrays) - set(also) != set(names):
        raise UsageError(
            "the samples are not those of the model's inputs",
            where=where,
            expected=f"arrays named {', '.join(names)}",
            got=", ".join(arrays) or "none",
            fix="name the arrays after the inputs",
        )
    for spec in signature.inputs:
        if arrays[spec.name].dtype.kind not in "biuf":
            raise UsageError(
                f"the samples of {spec.name} are no numbers",
                where=f"{where}, array {spec.name}",
                expected=spec.dtype,
                got=str(arrays[spec.name].dtype),
                fix="give numbers of the model's type",
            )
        shape = tuple(arrays[spec.name].shape[1:])
        if shape != tuple(spec.shape[1:]) or len(arrays[spec.name]) == 0:
            raise UsageError(
                f"the samples of {spec.name} have another shape than the model takes",
                where=f"{where}, array {spec.name}",
                expected=f"(samples, {', '.join(str(d) for d in spec.shape[1:])}), at least one sample",
                got=str(tuple(arrays[spec.name].shape)),
                fix="give samples of the model's shape",
            )
    counts = {name: len(rows) for name, rows in arrays.items()}
    if len(set(counts.values())) > 1:
        raise UsageError(
            "the arrays hold different numbers of samples",
            where=where,
            expected="one row of each array for every sample",
            got=", ".join(f"{name}: {count}" for name, count in counts.items()),
            fix="cut them to one length",
        )
