"""Latency and memory of proven files, in the runtimes that they are for. One way, with a recipe and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.artifacts.running import subjects_on
from edgedistill.data.on_disk import save_npz
from edgedistill.measurement.measure import measure

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from edgedistill.documents.measurements import Timed
    from edgedistill.events import Events
    from edgedistill.measurement.measure import Latencies
    from edgedistill.recipe.benchmark import Benchmark
    from edgedistill.types import Array, Artifact


def measure_proven(
    artifacts: Sequence[Artifact],
    refused: Mapping[str, Collection[str]],
    inputs: Mapping[str, Array],
    settings: Benchmark,
    folder: Path,
    events: Events,
    samples: Latencies | None = None,
) -> list[Timed]:
    """Measure every file in the runtimes of the settings' device.

    Args:
        artifacts: what is measured, interleaved.
        refused: artifact's id -> runtimes that it is not for.
        inputs: what they are fed with, by input name.
        settings: where and how.
        folder: for the inputs on their way.
        events: where progress goes.
        samples: gets every latency.
    """
    found = [s for s in subjects_on(settings.device, artifacts) if s.runtime not in refused.get(s.artifact.id, ())]
    path = folder / ".inputs.npz"
    save_npz(path, inputs)
    try:
        return measure(found, settings, path, events, samples)
    finally:
        path.unlink()
