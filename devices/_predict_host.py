"""How far this machine's time for a file is from what its operator classes say: what corrects them elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import _predict_graph as graphs
from ._predict_fit import FEW_STRENGTH, Anchors, fit
from ._predict_read import read_graph

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgedistill.types import Array, Json

RUNTIME = "ncnn"
"""Of the shipped boards' timings; a correction by one runtime says nothing of another's kernels."""
EXPONENT = 0.75
"""Of the residual in the correction; from the study of the same tables, where 0.5 to 1 differed by a point."""


def features_of(path: Path) -> list[float]:
    """The operator-class features of a file (`_predict_graph.FEATURES`)."""
    return graphs.features(read_graph(path)).tolist()  # type: ignore[no-any-return]  # numpy's stub


def expected_ms(suite: Sequence[Json], prior: Array, features: Sequence[float]) -> float:
    """What operator classes say that a file takes on a machine that took so long for a suite of others.

    Args:
        suite: `name`, `features` and `ms` of each network.
        prior: proportions of operator-class costs on like machines.
        features: of the file.
    """
    names = tuple(row["name"] for row in suite)
    rows, times = np.array([row["features"] for row in suite]), np.array([row["ms"] for row in suite])
    costs = fit(Anchors(names, names, rows, times), prior, FEW_STRENGTH)
    return float(np.array(features) @ costs)


def corrected(predicted: Array, residual: Array) -> Array:
    """Predictions times the host's measured over expected, to the power of EXPONENT."""
    return np.asarray(predicted * residual**EXPONENT)
