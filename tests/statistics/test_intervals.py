"""Intervals, percentiles and the early-stopping estimate, each against an independent reference."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.statistics.intervals import Interval, paired_difference, wilson
from edgedistill.statistics.latency import early_stopping_p90, summarize_ms

if TYPE_CHECKING:
    from edgedistill.types import Array

Counts = tuple[int, int, int, int]
"""Samples that both, only a, only b and neither have right."""

tables = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda counts: sum(counts) > 0)


def _outcomes(counts: Counts) -> tuple[Array, Array]:
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def _difference(counts: Counts) -> Interval:
    return paired_difference(*_outcomes(counts))


def _closed_form(k: int, n: int) -> tuple[float, float]:
    """Wilson 1927: centre and half width; z is the 97.5% point of the standard normal."""
    p, z = k / n, 1.959963984540054
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


@given(st.data(), st.integers(1, 100_000))
def test_wilson_is_the_closed_form_of_his_interval(data: st.DataObject, n: int) -> None:
    k = data.draw(st.integers(0, n))
    found, (low, high) = wilson(k, n), _closed_form(k, n)
    assert found.value == k / n
    assert found.n == n
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


@pytest.mark.parametrize(("k", "n"), [(0, 0), (1, 0), (0, -1), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts_and_names_them(k: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{k} of {n}"):
        wilson(k, n)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, paired data, method 10
        ((1, 1, 7, 12), -0.507, -0.026),  # Fagerland, Lydersen, Laake 2014, airway hyper-responsiveness
    ],
)
def test_paired_difference_gives_published_intervals(counts: Counts, low: float, high: float) -> None:
    found = _difference(counts)
    digits = 4 if counts[0] == 36 else 3
    assert (round(found.low, digits), round(found.high, digits)) == (low, high)


def _score_limits(k: int, n: int) -> tuple[float, float]:
    """The roots p of (k/n - p)^2 = z^2 p(1-p)/n."""
    z2 = 3.841458820694124
    low, high = sorted(np.roots([1 + z2 / n, -(2 * k / n + z2 / n), (k / n) ** 2]).real)
    return float(low), float(high)


@given(tables)
def test_paired_difference_is_method_10_computed_another_way(counts: Counts) -> None:
    a, b, c, d = counts
    n = sum(counts)
    (l1, u1), (l2, u2) = _score_limits(a + b, n), _score_limits(a + c, n)
    p1, p2 = (a + b) / n, (a + c) / n
    product = math.prod((a + b, c + d, a + c, b + d))
    cross = a * d - b * c
    shrunk = cross if cross <= 0 else max(0.0, cross - n / 2)
    phi = shrunk / math.sqrt(product) if product else 0.0
    below = np.array([p1 - l1, u2 - p2])
    above = np.array([u1 - p1, p2 - l2])
    correlation = np.array([[1, -phi], [-phi, 1]])
    low = p1 - p2 - math.sqrt(max(0.0, below @ correlation @ below))
    high = p1 - p2 + math.sqrt(max(0.0, above @ correlation @ above))
    found = _difference(counts)
    assert found.value == pytest.approx(p1 - p2, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((max(-1.0, low), min(1.0, high)), abs=1e-6)


@given(tables)
def test_paired_difference_is_antisymmetric_bounded_and_ordered(counts: Counts) -> None:
    a, b = _outcomes(counts)
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low), abs=1e-12)
    assert -1 <= forth.low <= forth.value + 1e-12
    assert forth.value - 1e-12 <= forth.high <= 1
    assert forth.n == sum(counts)


@given(st.integers(1, 500), st.floats(0, 1))
def test_identical_classifiers_differ_by_zero_with_some_uncertainty(n: int, share: float) -> None:
    right = np.arange(n) < round(share * n)
    found = paired_difference(right, right)
    assert found.value == 0
    assert found.low < 0 < found.high


def test_paired_difference_narrows_as_samples_are_added() -> None:
    found = [_difference((80 * k, 5 * k, 8 * k, 7 * k)) for k in (1, 4, 16, 64)]
    widths = [interval.high - interval.low for interval in found]
    assert all(narrow < wide for wide, narrow in pairwise(widths))


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((3,), (4,))])
def test_paired_difference_refuses_empty_and_unequal_samples(shapes: tuple[tuple[int], tuple[int]]) -> None:
    with pytest.raises(ValueError, match="same positive number of samples"):
        paired_difference(np.ones(shapes[0], bool), np.ones(shapes[1], bool))


@pytest.mark.parametrize("cells", [(0.86, 0.06, 0.03, 0.05), (0.4, 0.3, 0.2, 0.1), (0.92, 0.02, 0.02, 0.04)])
def test_paired_difference_covers_the_truth_in_about_95_of_100_experiments(cells: tuple[float, ...]) -> None:
    drawn = np.random.default_rng(7).multinomial(200, cells, size=2000)
    found = [_difference(tuple(int(c) for c in counts)) for counts in drawn]  # type: ignore[arg-type]  # four counts, which mypy cannot see
    truth = cells[1] - cells[2]
    assert 0.935 <= np.mean([i.low <= truth <= i.high for i in found]) <= 0.985


def _over_latency_count(q: int) -> int:
    """The largest t with P(Binomial(q, 0.1) <= t) <= 0.01, by adding up the tail; 0 for none."""
    terms = (math.comb(q, i) * 9 ** (q - i) for i in range(q + 1))  # times 10^q: integers, so exact
    tail, t = 0, -1
    for term in terms:
        tail += term
        if tail * 100 > 10**q:
            return max(t, 0)
        t += 1
    return t


@pytest.mark.parametrize("q", [*range(64, 140), 200, 500, 1000, 2500])
def test_early_stopping_discards_as_many_as_the_binomial_tail_allows(q: int) -> None:
    samples = np.random.default_rng(q).permutation(np.arange(1.0, q + 1))
    t = _over_latency_count(q)
    assert t >= 1
    assert early_stopping_p90(samples) == q - (t - 1)


@pytest.mark.parametrize("q", range(64))
def test_early_stopping_says_nothing_below_64_samples(q: int) -> None:
    assert _over_latency_count(q) < 1
    assert early_stopping_p90(np.arange(float(q))) is None


@given(st.lists(st.floats(0.001, 1e4), min_size=64, max_size=400))
def test_early_stopping_is_never_below_the_plain_90th_percentile(values: list[float]) -> None:
    samples = np.array(values)
    found = early_stopping_p90(samples)
    assert found is not None
    assert found in values
    assert found >= np.percentile(samples, 90) * (1 - 1e-12)


def test_early_stopping_converges_to_the_90th_percentile() -> None:
    gaps = []
    for q in (100, 10_000, 1_000_000):
        samples = np.arange(q) / q
        found = early_stopping_p90(samples)
        assert found is not None
        gaps.append(found - float(np.percentile(samples, 90)))
    assert gaps[0] > gaps[1] > gaps[2] >= 0
    assert gaps[2] < 0.001


@given(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=200))
def test_summary_is_numpys(values: list[float]) -> None:
    samples = np.array(values)
    found = summarize_ms(samples)
    for percent in (50, 90, 95, 99):
        assert found[f"p{percent}"] == np.quantile(samples, percent / 100)
    assert (found["min"], found["max"], found["count"]) == (min(values), max(values), len(values))
    assert found["mean"] == pytest.approx(math.fsum(values) / len(values))
    assert found["duration_s"] == pytest.approx(math.fsum(values) / 1000)
    spread = math.sqrt(math.fsum((v - np.mean(samples)) ** 2 for v in values) / max(1, len(values) - 1))
    assert found["std"] == pytest.approx(spread, abs=1e-9)


def test_summary_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no latency samples"):
        summarize_ms(np.array([]))
