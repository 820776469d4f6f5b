"""Who is slower: rates of false alarms and of hits, against noise that hosts really have."""

from __future__ import annotations

import itertools
import math
import operator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgedistill.statistics.faster import Round, compare_rounds, sign_flip_p

if TYPE_CHECKING:
    from edgedistill.types import Array


def host(rng: np.random.Generator, slowdown: float, rounds: int = 12, queries: int = 60) -> list[Round]:
    """A shared machine: gamma noise, a process-wide offset of 3%, slow drift, and bursts that double the latency."""
    drift = rng.normal(0, 0.01)

    def process(place: float, factor: float) -> Array:
        offset = math.exp(rng.normal(0, 0.03) + drift * place)
        burst = rng.random(queries) < rng.choice([0.0, 0.3], p=[0.7, 0.3])
        return np.asarray(factor * offset * (1 + burst) * (1 + rng.gamma(2.0, 0.01, queries)))

    return [Round(process(i, 1.0), process(i + 0.3, slowdown), process(i + 0.6, 1.0)) for i in range(rounds)]


def answers(slowdown: float, trials: int, rounds: int = 12) -> list[str]:
    rng = np.random.default_rng(7)
    return [compare_rounds(host(rng, slowdown, rounds)).answer for _ in range(trials)]


def test_a_file_against_itself_is_hardly_ever_called_different() -> None:
    found = answers(1.0, 400)
    assert found.count("slower") + found.count("faster") <= 4, "1% at most"
    assert found.count("same") > 100


def test_a_tenth_slower_is_called_slower_or_told_to_be_undecided() -> None:
    found = answers(1.10, 100)
    assert found.count("slower") >= 90
    assert found.count("faster") == found.count("same") == 0
    assert answers(1 / 1.10, 50).count("faster") >= 45


def test_undecided_says_how_many_rounds_would_decide_and_they_do() -> None:
    rng = np.random.default_rng(3)
    undecided = [c for c in (compare_rounds(host(rng, 1.04, 5)) for _ in range(40)) if c.answer == "inconclusive"]
    assert len(undecided) > 20
    assert all(c.needed_rounds is not None and c.needed_rounds > c.rounds for c in undecided)
    needed = int(np.median([c.needed_rounds or 0 for c in undecided]))
    assert answers(1.10, 40, max(needed, 12)).count("inconclusive") <= 4


@pytest.mark.parametrize("rounds", [2, 5, 8])
def test_fewer_rounds_than_the_test_needs_ask_for_as_many_as_it_needs(rounds: int) -> None:
    """Twice as slow, beyond any doubt: yet 2 / 2**8 is more than the test allows, and 2 / 2**9 is not."""
    found = compare_rounds(host(np.random.default_rng(0), 2.0, rounds))
    assert found.answer == "inconclusive"
    assert found.needed_rounds == 9
    assert compare_rounds(host(np.random.default_rng(0), 2.0, 9)).answer == "slower"


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=9))
def test_the_sign_flip_test_is_fishers(logs: list[int]) -> None:
    """Counted in integers, whose ties are ties."""
    patterns = list(itertools.product((1, -1), repeat=len(logs)))
    as_far = sum(abs(sum(map(operator.mul, signs, logs))) >= abs(sum(logs)) for signs in patterns)
    assert sign_flip_p(np.array(logs) / 100) == as_far / len(patterns)


def test_the_sign_flip_test_counts_all_patterns_of_14_rounds_and_a_seeded_sample_of_more() -> None:
    assert sign_flip_p(np.ones(14)) == 2 / 2**14
    assert sign_flip_p(np.ones(15)) < 10 / 20_000
    logs = np.random.default_rng(5).normal(0.3, 1.0, 20)
    assert sign_flip_p(logs) == sign_flip_p(logs)
    assert sign_flip_p(logs) == sign_flip_p(-logs)
    normal = 2 * stats.norm.sf(abs(logs.sum()) / math.sqrt(float(logs @ logs)))
    assert sign_flip_p(logs) == pytest.approx(normal, abs=0.03)


@given(st.floats(0.1, 10), st.integers(2, 12))
def test_ratios_are_those_of_the_samples(factor: float, rounds: int) -> None:
    samples = np.linspace(1, 2, 21)
    found = compare_rounds([Round(samples, factor * samples, samples)] * rounds)
    assert found.p50.value == pytest.approx(factor)
    assert found.p90.value == pytest.approx(factor)
    assert found.noise_floor == pytest.approx(1.0)


def test_linear_drift_over_a_round_cancels() -> None:
    one = np.ones(30)
    found = compare_rounds([Round(one, one * math.exp(0.1), one * math.exp(0.2))] * 5)
    assert found.p50.value == pytest.approx(1.0)
    assert found.noise_floor == pytest.approx(math.exp(0.2)), "and is told as noise"


def test_the_check_can_fail() -> None:
    """Without the test's level, a two-sigma rule on the means would cry wolf far more often."""
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(200):
        logs = [math.log(np.mean(r.candidate) / np.mean(r.before)) for r in host(rng, 1.0, 5)]
        alarms += abs(np.mean(logs)) > 2 * np.std(logs) / math.sqrt(len(logs))
    assert alarms > 10


def test_one_round_is_refused() -> None:
    one = np.ones(3)
    with pytest.raises(ValueError, match="two rounds"):
        compare_rounds([Round(one, one, one)])
