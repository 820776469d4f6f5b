"""Pure statistics: intervals and percentiles, each with its source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool

    from edgedistill.types import Array


@dataclass(frozen=True)
class Interval:
    """A point estimate with its 95% interval and the number of samples behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval of a proportion, 95%.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Raises:
        ValueError: n is not positive, or successes lie outside 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0..n and n be positive, got {successes} of {n}")
    from scipy.stats import binomtest

    found = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Interval(successes / n, float(found.low), float(found.high), n)


def paired_difference(a: Bool[Array, " n"], b: Bool[Array, " n"]) -> Interval:
    """95% interval of P(a) - P(b) for two classifiers judged on the same n samples.

    Newcombe's hybrid score interval for paired proportions with continuity correction of phi. Unlike the
    plain normal interval it does not shrink to nothing when the two never disagree.
    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17, 1998, method 10.

    Raises:
        ValueError: the two do not have the same, positive number of samples.
    """
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"both need the same positive number of samples, got {a.shape} and {b.shape}")
    n = int(a.size)
    both, only_a = int(np.sum(a & b)), int(np.sum(a & ~b))
    only_b, neither = int(np.sum(~a & b)), int(np.sum(~a & ~b))
    first, second = wilson(both + only_a, n), wilson(both + only_b, n)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    phi = 0.0
    if margins:
        cross = both * neither - only_a * only_b
        phi = (max(cross - n / 2, 0.0) if cross > 0 else cross) / math.sqrt(margins)
    difference = first.value - second.value

    def reach(d1: float, d2: float) -> float:
        return math.sqrt(max(0.0, d1**2 - 2 * phi * d1 * d2 + d2**2))

    low = difference - reach(first.value - first.low, second.high - second.value)
    high = difference + reach(first.high - first.value, second.value - second.low)
    return Interval(difference, max(-1.0, low), min(1.0, high), n)
