"""A file measured on this machine to correct predictions for others: how far it is from what its operators say."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgedistill.artifacts.identify import companions_of, described
from edgedistill.artifacts.running import Subject, call_for
from edgedistill.contracts import CorrectsByHost
from edgedistill.errors import DeviceError
from edgedistill.plugins import first_that, load_device
from edgedistill.prediction.own_board import written
from edgedistill.prediction.published import NETWORKS, SIDE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.documents.measurements import HostMeasurement
    from edgedistill.events import Events
    from edgedistill.types import AgentCall

PROCESSES = 4
"""Of each network; every other one makes a repeat of its own."""
TRIES = 3
"""How often a network is measured whose repeats disagree."""
DISAGREE = 1.1
"""Two repeats that are further apart tell of other work on this machine, and not of the network."""
_INFERENCES = 30


def measured_here(artifact: Path, events: Events) -> HostMeasurement:
    """The file's time on this machine against what operator classes say of it.

    What they say rests on a server's published timings; how fast this machine is beside that one, on five networks of
    the same table, built again and measured in the same rounds. A time is the sum of each layer's fastest over all
    processes: a layer is short, and so finds a moment without other work sooner than the whole network does.

    Returns:
        `runtime`, `ms`, `repeats_ms`, `expected_ms`, `residual` (ms over expected), `references` (likewise, of the
        five, before the scale that `expected_ms` has in common with them).

    Raises:
        DeviceError: the repeats of the file, or of one of the five, disagree by more than a tenth; or no published
            timings stand behind this machine's architecture.
        UsageError: a file that is not measured here.
        ArtifactError: a file that cannot be converted.
    """
    correcting = first_that("devices", CorrectsByHost)
    runtime, file, shapes = correcting.host_runnable(artifact, companions_of(artifact))
    machine = load_device("cpu").describe("cpu").machine
    say = correcting.host_expected_ms(machine)
    with tempfile.TemporaryDirectory(prefix="edgedistill-host-") as folder:
        files = {artifact.name: file}
        for number, (name, build) in enumerate(NETWORKS.items()):
            events.step(f"export {name}", number, len(NETWORKS))
            torch.manual_seed(0)
            files[name] = written(build().eval(), (3, SIDE, SIDE), name, runtime, Path(folder))
        calls = {name: _profiling(one, runtime) for name, one in files.items()}
        calls[artifact.name] = replace(calls[artifact.name], inputs=_ones(shapes, Path(folder) / "inputs.npz"))
        times = _timed(calls, events)
        references = {name: times[name][0] / say(files[name]) for name in NETWORKS}
    ms, repeats = times[artifact.name]
    expected = say(artifact) * float(np.median([*references.values()]))
    return {
        "runtime": runtime,
        "ms": ms,
        "repeats_ms": repeats,
        "expected_ms": expected,
        "residual": ms / expected,
        "references": references,
    }


def _profiling(file: Path, runtime: str) -> AgentCall:
    return replace(call_for(Subject(described(file), runtime)), profile=_INFERENCES)


def _timed(calls: Mapping[str, AgentCall], events: Events) -> dict[str, tuple[float, list[float]]]:
    """Each file's milliseconds, and its two repeats'; fresh processes, interleaved.

    Those whose repeats disagree are measured again, and what was measured before still counts.

    Raises:
        DeviceError: two repeats disagree after TRIES times as many processes.
    """
    layers: dict[str, list[dict[str, float]]] = {name: [] for name in calls}
    left = [*calls]
    for _ in range(TRIES):
        order = left * PROCESSES
        for number, name in enumerate(order):
            events.step(f"measure {name} here", number, len(order))
            rows = load_device("cpu").run("cpu", calls[name]).document["profile"]["operators"]
            layers[name].append({row["name"]: row["least_ms"] for row in rows})
        left = [name for name in left if _apart(_repeats(layers[name]))]
    return {name: _agreed(name, found) for name, found in layers.items()}


def _ones(shapes: Mapping[str, tuple[int, ...]], path: Path) -> Path:
    """One sample; its number is an id as well as a pixel."""
    np.savez(path, **{name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    return path


def _repeats(processes: Sequence[dict[str, float]]) -> list[float]:
    return [_sum_of_least(processes[::2]), _sum_of_least(processes[1::2])]


def _apart(repeats: Sequence[float]) -> bool:
    return max(repeats) > DISAGREE * min(repeats)


def _agreed(name: str, processes: Sequence[dict[str, float]]) -> tuple[float, list[float]]:
    repeats = _repeats(processes)
    if _apart(repeats):
        raise DeviceError(
            f"two measurements of {name} on this machine disagree",
            where="device: cpu",
            expected=f"sums of the layers' fastest times within {DISAGREE - 1:.0%}",
            got=" and ".join(f"{ms:.3g} ms" for ms in repeats),
            fix="stop what else runs here and try again, or leave --host out",
        )
    return _sum_of_least(processes), repeats


def _sum_of_least(processes: Sequence[dict[str, float]]) -> float:
    return sum(min(one[layer] for one in processes) for layer in processes[0])
