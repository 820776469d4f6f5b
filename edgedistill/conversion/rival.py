"""A file of trained ranges: written by way of fp32, and judged beside the calibrated file whose place it may take."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.artifacts.running import compute_all, subjects
from edgedistill.contracts import TrainsRanges
from edgedistill.conversion.fastest import quickly
from edgedistill.conversion.writing import require_room
from edgedistill.errors import UsageError
from edgedistill.events import QUIET
from edgedistill.measurement.measure import comparable, measure, ratio_of
from edgedistill.plugins import load_exporter, offers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgedistill.conversion.candidates import CandidateSamples, Outputs
    from edgedistill.documents.artifacts import Candidate, ChoiceDocument, MadeCandidate
    from edgedistill.recipe.benchmark import Benchmark
    from edgedistill.types import Artifact, Precision, TrainedRange

_SCHEME = "qat"
_FASTER = 0.95
"""As between calibrated candidates: every round must be faster by this."""


@dataclass(frozen=True)
class Outcome:
    """The file that ships, where that is the trained one, and what the report says of it and its rivals."""

    artifact: Artifact | None
    choice: ChoiceDocument


@dataclass(frozen=True)
class Rival:
    """A calibrated file that a trained one may replace, with its candidates as the report has them."""

    artifact: Artifact
    choice: ChoiceDocument


def write_trained(
    base: Artifact,
    graph: Any,
    ranges: Sequence[TrainedRange],
    samples: CandidateSamples,
    out: Path,
    precision: Precision,
    *,
    float_ends: bool,
) -> Artifact:
    """A file of one format with trained ranges, by way of an fp32 file of the same weights.

    Args:
        base: the fp32 file of the student as it was before.
        graph: the trained student without its rounding, a torch module.
        ranges: of its tensors.
        samples: by which tensors are found in the file.
        out: the file goes to a folder in it that is named after the format.
        precision: int8-qat where it stands beside the calibrated file, int8-static in its place.
        float_ends: whether inputs and outputs stay in float.

    Raises:
        UsageError: the format's exporter takes no trained ranges.
    """
    exporter = load_exporter(base.format)
    takes = offers(exporter, TrainsRanges)
    if takes is None:
        raise UsageError(f"{base.format} takes no trained ranges", where="export.precisions", got=precision.value)
    folder, scratch = out / base.format, out / f".{base.format}"
    for place in (folder, scratch):
        require_room(place, base.size_bytes)
    plain = exporter.export(graph, base.model, base.signature, scratch)
    whole = {name: np.asarray(rows) for name, rows in samples.calibration.items()}
    made = takes.quantize_trained(plain, ranges, whole, folder, precision, float_ends=float_ends)
    shutil.rmtree(scratch)
    return made


def judge_trained(
    base: Artifact,
    trained: Artifact,
    rival: Rival | None,
    samples: CandidateSamples,
    margin: float,
    benchmark: Benchmark,
    out: Path,
) -> Outcome:
    """The trained file beside fp32, and beside the calibrated file whose place it may take.

    Args:
        base: fp32.
        trained: made of the student that was trained with its rounding.
        rival: whose place it may take; None: it stands beside the calibrated ones.
        samples: that judge.
        margin: of quality against fp32.
        benchmark: where two that are within the margin are timed.
        out: for outputs on their way.
    """
    others = [base] if rival is None else [base, rival.artifact]

    def outputs(artifact: Artifact) -> Outputs:
        return compute_all(subjects([artifact])[0], samples.validation, out / ".outputs.npz")

    reference, *rivals = [outputs(artifact) for artifact in others]
    fp32, *calibrated = [samples.score(found, reference) for found in (reference, *rivals)]
    own = samples.score(outputs(trained), reference)
    (out / ".outputs.npz").unlink()
    met = fp32 - own <= margin
    row = _row(trained, samples, own, fp32, calibrated)
    if rival is None:
        return Outcome(trained, {"artifact": trained.id, "met": met, "candidates": [row]})
    fits = fp32 - calibrated[0] <= margin
    rounds = _rounds(base, rival.artifact, trained, benchmark) if met and fits else []
    if rounds:
        row["device"], row["latency_ratio_rounds"] = benchmark.device, rounds[1]
        row["latency_ratio_to_fp32"] = float(np.median(rounds[1]))
    better, why = _better((own, calibrated[0]), (met, fits), rounds)
    if not better:
        for file in trained.files:
            file.unlink()
    return _replaced(rival.choice, trained, row, why, ships=better, met=met)


def _row(
    trained: Artifact, samples: CandidateSamples, own: float, fp32: float, calibrated: Sequence[float]
) -> MadeCandidate:
    return {
        "scheme": _SCHEME,
        "placement": _SCHEME,
        "keep_float": [],
        "metric": samples.metric,
        "quality": own,
        "quality_fp32": fp32,
        "quality_calibrated": calibrated[0] if calibrated else None,
        "drop": fp32 - own,
        "n": samples.count,
        "size_bytes": trained.size_bytes,
        "device": None,
        "latency_ratio_to_fp32": None,
        "latency_ratio_rounds": [],
        "state": "shipped",
    }


def _rounds(base: Artifact, calibrated: Artifact, trained: Artifact, benchmark: Benchmark) -> list[list[float]]:
    """Latency over fp32's in interleaved rounds: of the calibrated file, and of the trained one."""
    files = (base, replace(calibrated, model="calibrated"), replace(trained, model="trained"))
    measured = measure([subjects([one])[0] for one in files], quickly(benchmark), None, QUIET)
    reference, *own = map(comparable, measured)
    return [ratio_of(one, reference)["rounds"] for one in own]


def _better(qualities: tuple[float, float], fits: tuple[bool, bool], rounds: list[list[float]]) -> tuple[bool, str]:
    """Whether the first of two files is better than the second, and what the worse one lacks.

    Within the margin first; of two within it the faster one in every round; else the quality.
    """
    if fits[0] != fits[1]:
        return fits[0], "loses too much"
    if rounds:
        second, first = rounds
        for better, one, other in ((True, first, second), (False, second, first)):
            if all(a < _FASTER * b for a, b in zip(one, other, strict=True)):
                return better, "not faster"
    return qualities[0] > qualities[1], "lower quality" if all(fits) else "loses too much"


def _called(row: Candidate, state: str) -> Candidate:
    told = row.copy()
    told["state"] = state
    return told


def _replaced(
    choice: ChoiceDocument, trained: Artifact, row: MadeCandidate, why: str, *, ships: bool, met: bool
) -> Outcome:
    """The calibrated file's candidates with the trained one among them."""
    if not ships:
        return Outcome(None, {**choice, "candidates": [*choice["candidates"], _called(row, why)]})
    rows = [_called(one, why) if one["state"] == "shipped" else one for one in choice["candidates"]]
    return Outcome(trained, {**choice, "met": met, "candidates": [*rows, row]})
