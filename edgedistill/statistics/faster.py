"""Is B slower than A? Decided on interleaved rounds of fresh processes, never on one run of each.

A round is A, B, A again, each a process of its own. What B is to the mean of its two neighbours is the round's ratio;
what the second A is to the first is the host's own noise, met in the same minutes. Drift that is linear over a round
cancels. Under no difference the sign of a round's log ratio is a coin, so a sign-flip test is exact for any noise
that is symmetric; the interval is a bootstrap over rounds.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

    from edgedistill.types import Array, Json

ALPHA = 0.005
"""Chance of a false alarm that the test allows; the noise floor lowers it further."""
_LEAST = math.ceil(math.log2(2 / ALPHA))
"""Rounds from which on the test can call anything: all n on one side have a p-value of 2 / 2**n."""
_RESAMPLES = 10_000
_PATTERNS = 2 * _RESAMPLES
"""Of signs: all of them are counted up to 14 rounds, which have no more than so many; beyond, a sample of so many."""

Answer = Literal["faster", "same", "slower", "inconclusive"]


@dataclass(frozen=True)
class Round:
    """Latency samples of one round, milliseconds: the reference, the candidate, the reference again."""

    before: Float[Array, " a"]
    candidate: Float[Array, " b"]
    after: Float[Array, " c"]


@dataclass(frozen=True)
class Ratio:
    """A candidate's figure over the reference's: median over rounds, and the bootstrap's 99% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """What the rounds say.

    Attributes:
        p50: ratio of medians, candidate to reference.
        p90: ratio of 90th percentiles.
        noise_floor: the reference against itself: 1 + how far the 99% interval of its own ratio reaches from 1.
        p_value: of the sign-flip test on the medians, two-sided.
        rounds: how many.
        margin: differences up to this share are called "same".
        answer: "slower" and "faster" need p_value <= 0.005, an interval wholly beyond 1 and a ratio beyond the noise
            floor (processes of one file differ, by their place in memory, more than chance within them tells);
            "same" an interval inside the margin; anything else is "inconclusive".
        needed_rounds: rounds that would decide at this spread, when they did not.
    """

    p50: Ratio
    p90: Ratio
    noise_floor: float
    p_value: float
    rounds: int
    margin: float
    answer: Answer
    needed_rounds: int | None

    def to_json(self) -> Json:
        """JSON form."""
        return asdict(self)


def compare_rounds(rounds: Sequence[Round], margin: float = 0.05, seed: int = 0) -> Comparison:
    """Judge a candidate against a reference.

    Args:
        rounds: interleaved measurements.
        margin: share of latency that does not matter, 0.05 for 5%.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than two rounds.
    """
    if len(rounds) < 2:  # one round has no spread
        raise ValueError(f"a comparison needs at least two rounds, got {len(rounds)}")
    p50, own = _log_ratios(rounds, 50)
    p90, _ = _log_ratios(rounds, 90)
    middle, noise = _interval(p50, seed), _interval(own, seed)
    floor = max(noise.high, 1 / noise.low)
    p_value = sign_flip_p(p50)
    answer = _answer(middle, p_value, floor, margin)
    needed = None if answer != "inconclusive" else max(len(rounds) + 1, _LEAST, _needed(p50, margin))
    return Comparison(middle, _interval(p90, seed), floor, p_value, len(rounds), margin, answer, needed)


def _answer(ratio: Ratio, p_value: float, floor: float, margin: float) -> Answer:
    if 1 / (1 + margin) <= ratio.low and ratio.high <= 1 + margin:
        return "same"
    if p_value <= ALPHA and ratio.low > 1 and ratio.value > floor:
        return "slower"
    if p_value <= ALPHA and ratio.high < 1 and ratio.value < 1 / floor:
        return "faster"
    return "inconclusive"


def _log_ratios(rounds: Sequence[Round], percentile: float) -> tuple[Float[Array, " rounds"], Float[Array, " rounds"]]:
    """Per round: log of the candidate over the geometric mean of its neighbours, and of the second A over the first."""
    figures = np.log(
        [[np.percentile(part, percentile) for part in (one.before, one.candidate, one.after)] for one in rounds]
    )
    return figures[:, 1] - (figures[:, 0] + figures[:, 2]) / 2, figures[:, 2] - figures[:, 0]


def _interval(logs: Float[Array, " rounds"], seed: int) -> Ratio:
    """Median over rounds; a 99% bootstrap interval, made as much wider as a t interval is than a normal one.

    The percentile bootstrap of few values is too narrow by just that (Hesterberg, "What teachers should know about
    the bootstrap", 2015, section 5).
    """
    from scipy.stats import norm, t

    rng = np.random.default_rng(seed)
    centre = float(np.median(logs))
    drawn = np.median(logs[rng.integers(0, len(logs), (_RESAMPLES, len(logs)))], axis=1)
    low, high = np.percentile(drawn, [0.5, 99.5])
    wider = float(t.ppf(0.995, len(logs) - 1) / norm.ppf(0.995)) * math.sqrt(len(logs) / (len(logs) - 1))
    return Ratio(
        math.exp(centre), math.exp(centre - wider * (centre - float(low))), math.exp(centre + wider * (high - centre))
    )


def sign_flip_p(logs: Float[Array, " rounds"]) -> float:
    """Two-sided p-value of mean zero: the share of sign patterns whose sum is at least as far from zero.

    Exact up to 14 values (Fisher's randomisation test for pairs, "The design of experiments", 1935, section 21);
    beyond, over 20,000 seeded patterns and the observed one.
    """
    from scipy.stats import permutation_test

    found = permutation_test(
        (logs,),
        _distance,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_PATTERNS,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _distance(logs: Float[Array, "... rounds"], axis: int) -> Array:
    """Of the sum from zero, in steps that rounding does not tell apart."""
    found: Array = np.round(np.abs(np.sum(logs, axis=axis)), 12)
    return found


def _needed(logs: Float[Array, " rounds"], margin: float) -> int:
    """Rounds after which a 99% interval of this spread would be decided: half as wide as the distance it must keep.

    The distance is that of the estimate to 1 or to the margin's edge, whichever is farther; at least a tenth of
    the margin, since nothing decides a difference of nothing.
    """
    edge = math.log1p(margin)
    distance = max(abs(float(np.median(logs))), edge - abs(float(np.median(logs))), edge / 10)
    spread = float(np.std(logs, ddof=1)) * 1.2533  # the standard error of a median is sqrt(pi / 2) that of a mean
    return math.ceil((2.576 * spread / distance) ** 2) + 2
