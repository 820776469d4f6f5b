"""Choose how an artifact is quantised: by measuring candidates, then by returning the fewest layers to float."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.benchmarking import measure, ratio_of
from edgedistill.comparing import compute, subjects, subjects_on
from edgedistill.errors import UsageError, nearest
from edgedistill.plugins import load_exporter
from edgedistill.types import Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from edgedistill.recipe_benchmark import Benchmark
    from edgedistill.recipe_export import Quantize
    from edgedistill.types import Array, Artifact, Json, Scheme

_FASTER = 0.95
"""A later candidate takes an earlier one's place when every round is faster by this: noise must not choose files."""


@dataclass(frozen=True)
class CandidateSamples:
    """What candidates are made and judged with; no evaluation sample is among them.

    Attributes:
        calibration: input name -> samples that give the ranges.
        validation: .npz of other samples, by input name.
        count: how many those are.
        score: quality of the first output over them, higher is better, 0 to 1.
    """

    calibration: Mapping[str, Array]
    validation: Path
    count: int
    score: Callable[[Array], float]


@dataclass(frozen=True)
class Tried:
    """A candidate: how it was made, its file, its quality, its outputs over the validation samples."""

    scheme: Scheme
    artifact: Artifact
    quality: float
    outputs: Array


@dataclass(frozen=True)
class Choice:
    """The file to ship, and why.

    Attributes:
        artifact: in the folder asked for.
        rows: a JSON row for each candidate: scheme, kept layers, quality, n, drop, size, latency ratio, state.
        keep_float: layers that stayed in float.
        met: whether the quality is within the margin.
    """

    artifact: Artifact
    rows: list[Json]
    keep_float: tuple[str, ...]
    met: bool


@dataclass(frozen=True)
class _Search:
    """One artifact on its way to one precision."""

    base: Artifact
    precision: Precision
    samples: CandidateSamples
    folder: Path
    on_step: Callable[[str], None]

    def run(self, artifact: Artifact) -> Array:
        """Outputs over the validation samples, in the first runtime of the format."""
        return compute(subjects([artifact])[0], self.samples.validation, self.folder / ".outputs.npz")

    def attempt(self, scheme: Scheme, number: int) -> Tried:
        """Make a candidate and judge it."""
        self.on_step(f"try {scheme.name}" + (f", {len(scheme.keep_float)} layers in float" * bool(scheme.keep_float)))
        folder = self.folder / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        exporter = load_exporter(self.base.format)
        made = exporter.quantize(self.base, self.precision, self.samples.calibration, folder, scheme)
        outputs = self.run(made)
        return Tried(scheme, made, self.samples.score(outputs), outputs)


def choose(
    artifact: Artifact,
    precision: Precision,
    samples: CandidateSamples,
    settings: Quantize,
    benchmark: Benchmark,
    out: Path,
    on_step: Callable[[str], None] = lambda _: None,
) -> Choice:
    """Make candidates, measure them beside the fp32 file, and put the best into `out`.

    The best is the first within the margin of quality, unless a later one within it is faster in every round. Is none
    within it, layers return to float: the fewest, those with the largest effect first.

    Raises:
        UsageError: an unknown scheme in `quantize.candidates`.
        EdgeDistillError: a quantiser or a runtime refuses the file.
    """
    folder = out / ".candidates"
    search = _Search(artifact, precision, samples, folder, on_step)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        reference = search.run(artifact)
        fp32 = samples.score(reference)
        tried = [search.attempt(s, n) for n, s in enumerate(_wanted(artifact, precision, settings))]
        fitting = [t for t in tried if fp32 - t.quality <= settings.max_drop]
        ratios = _ratios(artifact, fitting, benchmark) if len(fitting) > 1 else {}
        best = _best(fitting, ratios) if fitting else max(tried, key=lambda t: t.quality)
        if not fitting and settings.fallback and precision is Precision.INT8_STATIC:
            best = _returned(search, best, reference, fp32 - settings.max_drop, len(tried))
            tried.append(best)
        met = fp32 - best.quality <= settings.max_drop
        rows = [_row(t, fp32, samples.count, ratios, shipped=t is best, margin=settings.max_drop) for t in tried]
        return Choice(_moved(best.artifact, out), rows, best.scheme.keep_float, met)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wanted(artifact: Artifact, precision: Precision, settings: Quantize) -> Sequence[Scheme]:
    known = load_exporter(artifact.format).schemes(precision)
    if not settings.integer_ends:
        known = tuple(replace(s, options={**s.options, "float_ends": True}) for s in known)
    if precision is not Precision.INT8_STATIC:
        return known
    if settings.candidates == "auto":
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


def _ratios(base: Artifact, fitting: Sequence[Tried], benchmark: Benchmark) -> dict[str, list[float]]:
    """Latency over fp32's in each interleaved round, by scheme, in the first runtime, where the recipe benchmarks."""
    files = [replace(t.artifact, model=f"candidate-{n}") for n, t in enumerate(fitting)]
    found = [subjects_on(benchmark.device, [one])[0] for one in (base, *files)]
    quick = benchmark.model_copy(update={"rounds": 3, "min_queries": 64, "min_duration_s": 0.05, "sustained_min": 0.0})
    reference, *measured = measure(found, quick.model_copy(update={"profile": 0}), None, lambda *_: None)
    return {t.scheme.name: ratio_of(m, reference)["rounds"] for t, m in zip(fitting, measured, strict=True)}


def _best(fitting: Sequence[Tried], ratios: Mapping[str, Sequence[float]]) -> Tried:
    best = fitting[0]
    for later in fitting[1:]:
        pairs = zip(ratios[later.scheme.name], ratios[best.scheme.name], strict=True)
        if all(own < _FASTER * other for own, other in pairs):
            best = later
    return best


def _returned(search: _Search, best: Tried, reference: Array, least: float, number: int) -> Tried:
    """The candidate with the fewest layers in float whose quality is at least `least`, or with all of them.

    A layer's effect is the squared error of the outputs when it alone is quantised: two layers that share a bad tensor
    both have it, while the return of either alone would change nothing.
    """
    layers = load_exporter(search.base.format).layers(search.base)

    def with_float(kept: Sequence[str]) -> Tried:
        return search.attempt(replace(best.scheme, keep_float=tuple(kept)), number)

    def alone(layer: str) -> float:
        outputs = with_float([other for other in layers if other != layer]).outputs
        return float(np.mean((outputs - reference) ** 2))

    ranked = sorted(layers, key=alone, reverse=True)
    kept = fewest(lambda count: with_float(ranked[:count]).quality >= least, len(ranked))
    return with_float(ranked[:kept])


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
    tried: Tried, fp32: float, count: int, ratios: Mapping[str, Sequence[float]], *, shipped: bool, margin: float
) -> Json:
    fits = fp32 - tried.quality <= margin
    rounds = list(ratios.get(tried.scheme.name, [])) if not tried.scheme.keep_float else []
    row: dict[str, Any] = {
        "scheme": tried.scheme.name,
        "keep_float": list(tried.scheme.keep_float),
        "quality": tried.quality,
        "quality_fp32": fp32,
        "drop": fp32 - tried.quality,
        "n": count,
        "size_bytes": tried.artifact.size_bytes,
        "latency_ratio_to_fp32": float(np.median(rounds)) if rounds else None,
        "latency_ratio_rounds": rounds,
        "state": "shipped" if shipped else ("not faster" if fits else "loses too much"),
    }
    return row


def _moved(artifact: Artifact, out: Path) -> Artifact:
    """The artifact with its files in `out`."""
    for file in artifact.files:
        file.replace(out / file.name)
    return replace(artifact, path=out / artifact.path.name)
