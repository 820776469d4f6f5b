"""How far this machine's time for a file is from what its operator classes say: what corrects them elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.errors import DeviceError

from .fit import fit
from .graphs import graph as graphs
from .graphs.read import read_graph
from .published.data import graph_anchors, host_times

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgedistill.types import Array

RUNTIME = "ncnn"
"""Of the shipped boards' timings; a correction by one runtime says nothing of another's kernels."""
EXPONENT = 0.5
"""Of the residual in the correction: on the published rows 0.4 to 0.75 differ by less than a point of the median
error; the least was taken of those that also kept the mean error low (docs/prediction.md)."""
MACHINES = {"x86_64": "AMD EPYC 7742", "AMD64": "AMD EPYC 7742", "aarch64": "Raspberry Pi 4 Model B"}
"""Architecture -> the machine of ncnn's table whose timings tell what is to be expected; both compute in fp32."""


def expectation(machine: str) -> Callable[[Path], float]:
    """What operator classes say that a file takes, in milliseconds to a factor that a machine has for every file.

    Raises:
        DeviceError: no machine of this architecture is in the table.
    """
    if machine not in MACHINES:
        raise DeviceError(
            f"no published timings tell what networks take on {machine}",
            where="device: cpu",
            expected=", ".join(MACHINES),
            got=machine,
            fix="leave --host out",
        )
    costs = fit(graph_anchors(host_times(MACHINES[machine])), graphs.PRIOR)
    return lambda path: float(graphs.features(read_graph(path)) @ costs)


def corrected(predicted: Array, residual: Array) -> Array:
    """Predictions times the host's measured over expected, to the power of EXPONENT."""
    return np.asarray(predicted * residual**EXPONENT)
