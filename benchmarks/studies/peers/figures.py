"""What the samples say: a figure per subject, and whether the promises hold."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.studies.peers.subjects import LIMIT, SUBJECTS, Subject, subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.studies.peers.measure import Sample

SAME_STUDENT = 1e-3
"""Largest difference between students of one objective, relative to their logits: rounding, grown over the steps."""


@dataclass(frozen=True)
class Figure:
    """One subject's CPU milliseconds per step over the rounds.

    `ratio` is the median over that of the limit; `ratios` are the same division within each round. `apart` is how far
    the trained student is from the plain loop's: ||logits - its logits|| / ||its logits||.
    """

    subject: Subject
    cpu_ms: tuple[float, ...]
    ratio: float
    ratios: tuple[float, ...]
    apart: float

    @property
    def median(self) -> float:
        """Over the rounds."""
        return statistics.median(self.cpu_ms)


@dataclass(frozen=True)
class Promise:
    """A ratio of two subjects' medians, and the side of the bound on which it must lie."""

    text: str
    above: str
    below: str
    at_most: float = math.inf
    at_least: float = 0.0

    def value(self, figures: Sequence[Figure]) -> float:
        """The measured ratio."""
        median = {figure.subject.key: figure.median for figure in figures}
        return median[self.above] / median[self.below]

    def holds(self, figures: Sequence[Figure]) -> bool:
        """Whether the measured ratio is on the right side."""
        return self.at_least <= self.value(figures) <= self.at_most


PROMISES = (
    Promise(
        "cached training / the student alone on labels, pure torch (at most 1.10)", "ours-cached", LIMIT, at_most=1.10
    ),
    Promise("torchdistill / cached training (at least 2.5)", "torchdistill", "ours-cached", at_least=2.5),
)


def figures(samples: Sequence[Sample]) -> list[Figure]:
    """One figure per subject, in the order of the subjects."""
    limit = _by_round(samples, LIMIT)
    found = []
    for one in SUBJECTS:
        mine = _by_round(samples, one.key)
        median = statistics.median(s.cpu_ms for s in mine)
        found.append(
            Figure(
                one,
                tuple(s.cpu_ms for s in mine),
                median / statistics.median(s.cpu_ms for s in limit),
                tuple(s.cpu_ms / other.cpu_ms for s, other in zip(mine, limit, strict=True)),
                _distance(mine[0].logits, _by_round(samples, one.same_student_as)[0].logits),
            )
        )
    return found


def complaints(found: Sequence[Figure]) -> list[str]:
    """What does not hold: broken promises, and subjects that trained another student than they claim."""
    broken = [f"{p.text}: {p.value(found):.2f}" for p in PROMISES if not p.holds(found)]
    others = [
        f"{f.subject.name}: its student is {f.apart:.1e} from that of {subject(f.subject.same_student_as).name}"
        for f in found
        if not f.apart <= SAME_STUDENT
    ]
    return broken + others


def _by_round(samples: Sequence[Sample], key: str) -> list[Sample]:
    return sorted((s for s in samples if s.subject == key), key=lambda s: s.round)


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return math.dist(a, b) / math.hypot(*b)
