"""A device's figures are measured, emulated or predicted: its plug-in says which, and here it is heeded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.measurement.emulated import emulate_files
from edgedistill.measurement.measure import measure_files
from edgedistill.plugins import traits_of
from edgedistill.prediction.predict import predict_files
from edgedistill.types import Source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgedistill.documents.measurements import AnyMeasurement
    from edgedistill.events import Events
    from edgedistill.measurement.measure import Latencies
    from edgedistill.recipe.document import Benchmark
    from edgedistill.types import Artifact


def figures_of(
    files: Sequence[Artifact],
    against: Artifact | None,
    settings: Benchmark,
    inputs: Path | None,
    events: Events,
    kept: Latencies,
) -> Sequence[AnyMeasurement]:
    """What files cost on `settings.device`: timed there, counted under emulation, or predicted, which runs nothing.

    Args:
        files: what is asked about.
        against: the file that each is compared with; predictions are not.
        settings: device, threads, and how long to measure.
        inputs: model-ready samples (.npz, first axis: samples); seeded ones where None. Predictions need none.
        events: where progress goes.
        kept: takes every latency, in nanoseconds, where latencies are measured.

    Raises:
        PluginError: an unknown device.
        UsageError: the device has no runtime for a file.
        DeviceError: the device could not do it, or has nothing to say of a file.
    """
    source = traits_of(settings.device).source
    if source is Source.PREDICTED:
        return predict_files(files, settings)
    if source is Source.EMULATED:
        return emulate_files(files, against, settings, inputs, events)
    return measure_files(files, against, settings, events, kept, inputs)
