"""`edgedistill devices predict` and `edgedistill devices calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.cli.common import Answer, command, console, progress, require_folder, say, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgedistill.documents.measurements import HostMeasurement, Predictions
    from edgedistill.events import Events
    from edgedistill.types import Json


@command
def predict(
    artifact: Annotated[Path, typer.Argument(help="A file: .onnx, .tflite, .xml, .param.")],
    device: Annotated[
        list[str] | None, typer.Option("--device", help="sim:ID or ID, as often as wanted. Default: every profile.")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            help="ncnn, tflite, onnxruntime, openvino. Default: the file's; of ONNX, what the profile knows best.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Default: 1, or the fewest a profile has.")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="fp32, fp16, int8. Default: the file's.")] = None,
    predictor: Annotated[
        str | None,
        typer.Option(
            "--predictor", help="counts (one emulated run) or graph (operator classes). Default: counts where it can."
        ),
    ] = None,
    host: Annotated[
        bool,
        typer.Option("--host", help="Measure the file in ncnn on this machine; that corrects the operator classes."),
    ] = False,
    budget_ms: Annotated[
        float | None,
        typer.Option(
            "--budget-ms",
            min=0,
            help="The interval's upper end must keep within; exit code 1 if not, 3 if a --device refuses or is UNVALIDATED.",
        ),
    ] = None,
    budget_mb: Annotated[float | None, typer.Option("--budget-mb", min=0, help="So must the memory.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the predictions with their intervals: an SVG.")
    ] = None,
) -> Answer:
    """Predict a file's latency and memory on simulated devices, each with its 80% interval and error. Fastest first."""
    from edgedistill.prediction.predict import predict as predicted

    if plot is not None:
        require_folder("--plot", plot)
    with progress() as events:
        found = predicted(
            artifact,
            device or [],
            runtime=runtime,
            threads=threads,
            precision=precision,
            predictor=predictor,
            host=_host() if host else None,
            budget_ms=budget_ms,
            budget_mb=budget_mb,
            events=events,
        )
    if plot is not None:
        from edgedistill.report.prediction_plot import prediction_picture

        write(plot, prediction_picture(found["predictions"]))
    code = _exit_code(found, named=bool(device), budget=budget_ms is not None or budget_mb is not None)
    return Answer(found, lambda: _show(found), code)


def _show(found: Predictions) -> None:
    from edgedistill.report.predictions import show_predictions

    show_predictions(found["predictions"], console(), found["refused"])


def _host() -> Callable[[Path, Events], HostMeasurement]:
    """What measures a file on this machine; it needs torch."""
    from edgedistill.prediction.this_machine import measured_here

    return measured_here


def _exit_code(found: Predictions, *, named: bool, budget: bool) -> int:
    """With a budget, 1: missed (by a named device; by all where none is named), 3: a named device cannot decide it."""
    from edgedistill.release.gate import UNVALIDATED

    kept = [one for one in found["predictions"] if one.get("meets_budget", True)]
    undecided = found["refused"] or any(one["calibration"] in UNVALIDATED for one in kept)
    if not found["predictions"] or (budget and named and undecided):
        return 3
    return 0 if len(kept) == len(found["predictions"]) or (not named and kept) else 1


@command
def calibrate(
    name: Annotated[str, typer.Option("--name", help="Id of the new profile, such as my-board.")],
    device: Annotated[str | None, typer.Option("--device", help="Where to measure: cpu, ssh:NAME.")] = None,
    anchors: Annotated[
        Path | None, typer.Option("--anchors", help="Timings instead: a CSV with the columns model (a file) and ms.")
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime", help="ncnn, onnxruntime, litert, tflite-runtime, openvino; of --anchors paddle-lite too."
        ),
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the runtime.")] = 1,
    few_shot: Annotated[bool, typer.Option("--few-shot", help="Three networks instead of a dozen.")] = False,
    budget_mb: Annotated[
        float | None, typer.Option("--app-budget-mb", min=0, help="What an application may take there.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over an own profile of this name.")] = False,
) -> Answer:
    """Make a profile of a board of your own: a suite of generated networks is measured, or timings are given."""
    from edgedistill.errors import UsageError
    from edgedistill.prediction.own_board import Board, from_anchors, from_device

    if (device is None) == (anchors is None):
        raise UsageError(
            "either --device or --anchors is needed",
            where="command line",
            expected="one of the two",
            got="both" if device else "neither",
            fix="--device cpu measures; --anchors FILE.csv takes timings",
        )
    board = Board(name, runtime, threads, few_shot=few_shot, app_budget_mb=budget_mb, replace=replace)
    if anchors is not None:
        found = from_anchors(board, anchors)
    else:
        with progress() as events:
            found = from_device(board, str(device), events)
    return Answer(found, lambda: _show_profile(name, found))


def _show_profile(name: str, found: Json) -> None:
    error = f"{found['mdape']:.1%}" if found["mdape"] is not None else "unknown"
    say(f"{found['path']}: sim:{name}, {found['status']}, {found['anchors']} anchors, median error {error} (held out)")
    for flag in found["flags"]:
        say(f"  {flag}")
