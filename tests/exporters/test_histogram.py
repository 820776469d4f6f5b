"""Ranges without outliers, beside a brute force over the values themselves."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedistill.plugins import load_exporter

if TYPE_CHECKING:
    from edgedistill.types import Array


def clipped_ranges(values: Array, method: str) -> tuple[float, float]:
    exporter: Any = load_exporter("tflite")
    shelf = import_module(f"{exporter.__package__}.histogram")
    extremes = {"x": (float(values.min()), float(values.max()))}
    samples = ({"x": part, "unknown": part} for part in np.array_split(values, 7))
    found: tuple[float, float] = shelf.clipped_ranges(extremes, samples, method)["x"]
    return found


def error(values: Array, low: float, high: float) -> float:
    step = (high - low) / 255
    rounded = np.clip(np.round(values / step) * step, low, high)
    return float(np.mean((values - rounded) ** 2))


@pytest.fixture(scope="module")
def values() -> Array:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.laplace(size=1_000_000), [20.0, -20.0]])  # heavy tails


def test_the_least_error_beats_the_extremes_and_is_near_the_best_share(values: Array) -> None:
    low, high = clipped_ranges(values, "mse")
    found = error(values, low, high)
    assert found < 0.98 * error(values, values.min(), values.max())
    shares = np.linspace(0.05, 1, 200)
    best = min(error(values, s * values.min(), s * values.max()) for s in shares)
    assert found <= 1.1 * best


def test_percentiles_leave_out_the_tails_alone(values: Array) -> None:
    low, high = clipped_ranges(values, "percentile")
    expected = np.quantile(values, [1e-4, 1 - 1e-4])
    width = (values.max() - values.min()) / 2048
    np.testing.assert_allclose([low, high], expected, atol=2 * width)


@pytest.mark.parametrize("method", ["mse", "percentile"])
def test_zero_stays_inside(method: str) -> None:
    low, high = clipped_ranges(np.random.default_rng(1).uniform(2, 3, 1000), method)
    assert low == 0
    assert 2.5 < high <= 3
    assert clipped_ranges(np.zeros(10), method) == (0.0, 0.0)
