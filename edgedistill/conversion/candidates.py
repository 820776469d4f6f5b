"""Choose how an artifact is quantised: by measuring candidates, then by returning the fewest layers to float."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.artifacts.running import compute_all, matched, subjects
from edgedistill.conversion.fastest import race
from edgedistill.errors import EdgeDistillError, UsageError, nearest
from edgedistill.events import QUIET
from edgedistill.plugins import load_exporter
from edgedistill.types import Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from edgedistill.documents.artifacts import Candidate, ChoiceDocument, MadeCandidate, RefusedCandidate
    from edgedistill.events import Events
    from edgedistill.recipe.benchmark import Benchmark
    from edgedistill.recipe.export import Quantize
    from edgedistill.types import Array, Artifact, QuantizationScheme

Outputs = dict[str, "Array"]
"""Output name of the file -> (samples, ...), float."""
_FEW_CALIBRATION = 64
_FEW_VALIDATION = 256
_LEAST = 1e-12


@dataclass(frozen=True)
class CandidateSamples:
    """What candidates are made and judged with; no evaluation sample is among them.

    Attributes:
        calibration: input name -> samples that give the ranges.
        validation: .npz of other samples, by input name.
        count: how many those are.
        score: quality of the outputs over them beside those of the fp32 file, higher is better, 1 is best.
        metric: what the score is, in a word.
    """

    calibration: Mapping[str, Array]
    validation: Path
    count: int
    score: Callable[[Outputs, Outputs], float]
    metric: str = "top1"


@dataclass(frozen=True)
class Tried:
    """A candidate: how it was made, its file, its quality, its outputs over the validation samples."""

    scheme: QuantizationScheme
    artifact: Artifact
    quality: float
    outputs: Outputs


@dataclass(frozen=True)
class Choice:
    """The file to ship, and why.

    Attributes:
        artifact: in the folder asked for.
        rows: a row for each candidate.
        keep_float: layers that stayed in float.
        met: whether the quality is within the margin.
        notes: what a reader of the report should know of the choice.
    """

    artifact: Artifact
    rows: list[Candidate]
    keep_float: tuple[str, ...]
    met: bool
    notes: tuple[str, ...] = ()

    def to_json(self) -> ChoiceDocument:
        """As reports hold it: artifact, met, candidates, notes."""
        return {"artifact": self.artifact.id, "met": self.met, "candidates": self.rows, "notes": list(self.notes)}


@dataclass(frozen=True)
class _Search:
    """One artifact on its way to one precision."""

    base: Artifact
    precision: Precision
    samples: CandidateSamples
    folder: Path
    events: Events
    refused: list[tuple[QuantizationScheme, EdgeDistillError]] = field(default_factory=list)

    def run(self, artifact: Artifact) -> Outputs:
        """Outputs over the validation samples, in the first runtime of the format."""
        found = compute_all(subjects([artifact])[0], self.samples.validation, self.folder / ".outputs.npz")
        return matched(found, [spec.name for spec in artifact.signature.outputs])

    def attempt(self, scheme: QuantizationScheme, number: int, reference: Outputs) -> Tried:
        """Make a candidate and judge it beside the outputs of the fp32 file."""
        kept = f", {len(scheme.keep_float)} layers in float" if scheme.keep_float else ""
        self.events.step(f"try {scheme.name}{kept}", 0, 1)
        folder = self.folder / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        exporter = load_exporter(self.base.format)
        made = exporter.quantize(self.base, self.precision, self.samples.calibration, folder, scheme)
        outputs = self.run(made)
        return Tried(scheme, made, self.samples.score(outputs, reference), outputs)

    def attempts(self, schemes: Sequence[QuantizationScheme], reference: Outputs) -> list[Tried]:
        """All candidates that can be made; those that a tool or a runtime refuses go to `refused`.

        Raises:
            EdgeDistillError: of the first, when none can be made.
        """
        tried = []
        for number, scheme in enumerate(schemes):
            try:
                tried.append(self.attempt(scheme, number, reference))
            except EdgeDistillError as error:
                self.refused.append((scheme, error))
        if not tried:
            raise self.refused[0][1]
        return tried


def choose(
    artifact: Artifact,
    precision: Precision,
    samples: CandidateSamples,
    settings: Quantize,
    benchmark: Benchmark,
    out: Path,
    events: Events = QUIET,
) -> Choice:
    """Make candidates, measure them beside the fp32 file, and put the best into `out`.

    The best is the first within the margin of quality, unless a later one is certainly faster. Is none within it,
    layers return to float: the fewest, those with the largest effect first.

    Raises:
        UsageError: an unknown scheme in `quantize.candidates`.
        EdgeDistillError: a quantiser or a runtime refuses every candidate.
    """
    folder = out / ".candidates"
    search = _Search(artifact, precision, samples, folder, events)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        reference = search.run(artifact)
        fp32 = samples.score(reference, reference)
        tried = search.attempts(_wanted(artifact, precision, settings), reference)
        fitting = _apart([t for t in tried if fp32 - t.quality <= settings.max_drop])
        raced = race(artifact, [t.artifact for t in fitting], benchmark, events)
        best = fitting[raced.winner] if fitting else max(tried, key=lambda t: t.quality)
        if not fitting and settings.fallback and precision is Precision.INT8_STATIC:
            best = _returned(search, best, reference, fp32 - settings.max_drop, len(tried))
            tried.append(best)
        rounds = dict(zip((t.scheme.name for t in fitting), raced.rounds, strict=True))
        rows: list[Candidate] = [
            _row(
                t,
                fp32,
                samples,
                rounds.get(t.scheme.name, ()),
                raced.device,
                shipped=t is best,
                margin=settings.max_drop,
            )
            for t in tried
        ]
        rows += [_refused(scheme, error, samples, fp32) for scheme, error in search.refused]
        met = fp32 - best.quality <= settings.max_drop
        return Choice(_moved(best.artifact, out), rows, best.scheme.keep_float, met, raced.notes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wanted(artifact: Artifact, precision: Precision, settings: Quantize) -> Sequence[QuantizationScheme]:
    known = load_exporter(artifact.format).schemes(precision)
    if not settings.integer_ends:
        known = tuple(replace(s, options={**s.options, "float_ends": True}) for s in known)
    if precision is not Precision.INT8_STATIC or settings.candidates == "auto":
        return known
    if settings.candidates == "default":
        return known[:1]
    by_name = {scheme.name: scheme for scheme in known}
    chosen = [by_name[name] for name in settings.candidates if name in by_name]
    if not chosen:
        raise UsageError(
            f"no scheme of {artifact.format} is wanted",
            where="quantize.candidates",
            expected=nearest(settings.candidates[0] if settings.candidates else "", list(by_name)),
            got=", ".join(settings.candidates) or "an empty list",
            fix="name at least one scheme of each format, or say `auto`",
        )
    return chosen


def _apart(fitting: Sequence[Tried]) -> list[Tried]:
    """Of each placement the one of best quality: the others of it hold other numbers and take the same time."""
    best: dict[str, Tried] = {}
    for tried in fitting:
        held = best.setdefault(tried.scheme.placement, tried)
        if tried.quality > held.quality:
            best[tried.scheme.placement] = tried
    return list(best.values())


def _returned(search: _Search, best: Tried, reference: Outputs, least: float, number: int) -> Tried:
    """The candidate with the fewest layers in float whose quality is at least `least`, or with all of them.

    A layer's effect is the squared error of the outputs when it alone is quantised: two layers that share a bad tensor
    both have it, while the return of either alone would change nothing. It is found on few samples.
    """
    layers = load_exporter(search.base.format).layers(search.base)
    with _few(search) as small:
        expected = {name: values[: small.samples.count] for name, values in reference.items()}

        def alone(layer: str) -> float:
            kept = tuple(other for other in layers if other != layer)
            made = small.attempt(replace(best.scheme, keep_float=kept), number, expected)
            return error_power(made.outputs, expected)

        ranked = sorted(layers, key=alone, reverse=True)

    def with_float(count: int) -> Tried:
        return search.attempt(replace(best.scheme, keep_float=tuple(ranked[:count])), number, reference)

    return with_float(fewest(lambda count: with_float(count).quality >= least, len(ranked)))


@contextmanager
def _few(search: _Search) -> Iterator[_Search]:
    """The same search on the first samples alone."""
    samples, path = search.samples, search.folder / ".few.npz"
    with np.load(samples.validation, allow_pickle=False) as archive:
        np.savez(path, **{name: archive[name][:_FEW_VALIDATION] for name in archive.files})
    calibration = {name: rows[:_FEW_CALIBRATION] for name, rows in samples.calibration.items()}
    few = replace(
        samples, calibration=calibration, validation=path, count=min(samples.count, _FEW_VALIDATION), score=_unscored
    )
    try:
        yield replace(search, samples=few)
    finally:
        path.unlink()


def _unscored(outputs: Outputs, reference: Outputs) -> float:
    """Layers are ranked by their departure."""
    del outputs, reference
    return 0.0


def error_power(outputs: Outputs, expected: Outputs) -> float:
    """Power of the error over that of the signal, summed over the outputs."""
    return sum(
        float(np.mean((outputs[name] - values) ** 2) / max(np.mean(values**2), _LEAST))
        for name, values in expected.items()
    )


def fewest(fits: Callable[[int], bool], most: int) -> int:
    """The smallest count from 1 that fits, where more fit if fewer do: doubled, then bisected; `most` if none does."""
    high = 1
    while high < most and not fits(high):
        high *= 2
    low, high = high // 2 + 1, min(high, most)
    while low < high:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _row(
    tried: Tried,
    fp32: float,
    samples: CandidateSamples,
    rounds: Sequence[float],
    device: str,
    *,
    shipped: bool,
    margin: float,
) -> MadeCandidate:
    fits = fp32 - tried.quality <= margin
    return {
        "scheme": tried.scheme.name,
        "placement": tried.scheme.placement,
        "keep_float": list(tried.scheme.keep_float),
        "metric": samples.metric,
        "quality": tried.quality,
        "quality_fp32": fp32,
        "drop": fp32 - tried.quality,
        "n": samples.count,
        "size_bytes": tried.artifact.size_bytes,
        "device": device if rounds else None,
        "latency_ratio_to_fp32": float(np.median(rounds)) if rounds else None,
        "latency_ratio_rounds": list(rounds),
        "state": "shipped" if shipped else ("not better" if fits else "loses too much"),
    }


def _refused(
    scheme: QuantizationScheme, error: EdgeDistillError, samples: CandidateSamples, fp32: float
) -> RefusedCandidate:
    return {
        "scheme": scheme.name,
        "placement": scheme.placement,
        "keep_float": [],
        "metric": samples.metric,
        "quality": None,
        "quality_fp32": fp32,
        "drop": None,
        "n": samples.count,
        "size_bytes": None,
        "device": None,
        "latency_ratio_to_fp32": None,
        "latency_ratio_rounds": [],
        "state": f"refused: {error.message[:200]}",
    }


def _moved(artifact: Artifact, out: Path) -> Artifact:
    """The artifact with its files in `out`."""
    for file in artifact.files:
        file.replace(out / file.name)
    return replace(artifact, path=out / artifact.path.name)
