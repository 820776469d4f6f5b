"""`edgedistill benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.artifacts.identify import artifact_of
from edgedistill.cli.common import Answer, command, console, progress, require_folder, write
from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.documents.measurements import AnyMeasurement
    from edgedistill.documents.report import BenchmarkAnswer
    from edgedistill.measurement.measure import Latencies
    from edgedistill.recipe.document import Benchmark
    from edgedistill.types import Json


@command
def benchmark(
    artifacts: Annotated[list[Path], typer.Argument(help="Files: .onnx, .tflite, .xml, .param.")],
    device: Annotated[list[str] | None, typer.Option("--device", help="Where. Default: cpu.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the runtime.")] = 1,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", help="Say whether each file is faster or slower than this one, measured interleaved."
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, help="Fresh processes per artifact. Default: the preset's, 12 with --against."),
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", help="quick, normal or official: least queries and seconds of a round.")
    ] = "normal",
    affinity: Annotated[str, typer.Option("--affinity", help="Cores to run on, such as 0,1.")] = "",
    profile: Annotated[
        int, typer.Option("--profile", min=0, help="Also time every operator, over so many inferences.")
    ] = 0,
    sustained: Annotated[
        float,
        typer.Option("--sustained", min=0, help="Also run this many minutes without a pause, told by the minute."),
    ] = 0.0,
    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", help="Model-ready samples (.npz, first axis: samples). Default: seeded normal ones."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw distributions, timelines, operators: an SVG.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option("--samples", help="Keep every latency, in nanoseconds: an .npz.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Most seconds that a round may take.")] = 600.0,
) -> Answer:
    """Measure latency and memory of artifacts, each in every runtime installed; on emulated devices, instructions."""
    from edgedistill.measurement.choice import figures_of

    devices = device or ["cpu"]
    wanted: Json = {"threads": threads, "preset": preset, "affinity": _cores(affinity), "profile": profile}
    wanted |= {"sustained_min": sustained, "timeout_s": timeout}
    _require_places(devices, plot, samples)
    many = rounds or (12 if against else None)
    wanted |= {"rounds": many} if many else {}
    measurements: list[AnyMeasurement] = []
    kept: Latencies = {}
    with progress() as events:
        for name in devices:
            measurements += figures_of(
                [artifact_of(path) for path in artifacts],
                artifact_of(against) if against else None,
                _settings({"device": name, **wanted}),
                inputs,
                events,
                kept,
            )
    _keep(measurements, kept, plot, samples)
    valid = all(measurement["valid"] for measurement in measurements)
    answer: BenchmarkAnswer = {"measurements": measurements}
    return Answer(answer, lambda: _show(measurements), 0 if valid else 3)


def _show(measurements: Sequence[AnyMeasurement]) -> None:
    from edgedistill.report.terminal import show_measurements

    show_measurements(measurements, console())


def _require_places(devices: Sequence[str], plot: Path | None, samples: Path | None) -> None:
    """Before minutes are spent: a folder for what is kept, and something that is timed.

    Raises:
        UsageError: a folder is missing, or there will be no latency to keep.
        PluginError: an unknown device.
    """
    from edgedistill.plugins import traits_of
    from edgedistill.types import Source

    timed = [device for device in devices if traits_of(device).source is Source.MEASURED]
    for option, path in (("--plot", plot), ("--samples", samples)):
        if path is None:
            continue
        require_folder(option, path)
        if not timed:
            raise UsageError(
                f"{option} keeps latencies, and none is measured on {', '.join(devices)}",
                where=option,
                expected="a device that is measured, such as cpu",
                got=", ".join(devices),
                fix=f"leave {option} out",
            )


def _keep(measurements: Sequence[AnyMeasurement], kept: Latencies, plot: Path | None, samples: Path | None) -> None:
    """Write the picture and the samples, where they are wanted."""
    import io

    import numpy as np

    from edgedistill.report.latency_plot import latency_pictures

    if plot is not None:
        write(plot, latency_pictures(measurements))
    if samples is not None:
        stream = io.BytesIO()
        np.savez_compressed(stream, **kept)
        write(samples, stream.getvalue())


def _settings(wanted: Json) -> Benchmark:
    from pydantic import ValidationError

    from edgedistill.recipe.document import Benchmark

    try:
        return Benchmark.model_validate(wanted)
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{first['loc'][0]}"
        raise UsageError(
            f"{option}: {first['msg']}",
            where=option,
            expected=first["msg"],
            got=repr(first["input"]),
            fix=f"edgedistill benchmark --help tells what {option} takes",
        ) from None


def _cores(text: str) -> list[int]:
    try:
        return [int(core) for core in text.split(",") if core]
    except ValueError:
        raise UsageError(
            f"--affinity {text!r} names no cores",
            where="--affinity",
            expected="numbers such as 0,1",
            got=repr(text),
            fix="list the cores' numbers",
        ) from None
