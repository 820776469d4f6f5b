"""Predicted latency and memory of files on simulated devices, each with an interval and what stands behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from edgedistill.artifacts.identify import companions_of
from edgedistill.contracts import Predicts
from edgedistill.errors import UsageError
from edgedistill.events import QUIET
from edgedistill.plugins import first_that, known_runtimes, traits_of
from edgedistill.types import Precision, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edgedistill.documents.answers import SimulatedDevice
    from edgedistill.documents.measurements import HostMeasurement, Prediction, Predictions
    from edgedistill.events import Events
    from edgedistill.recipe.document import Benchmark
    from edgedistill.types import Artifact, Json

_INTEGERS = (Precision.INT8_STATIC, Precision.INT8_QAT)
_FLOATS = (Precision.FP32, Precision.FP16)
_OTHER_FLOATS = {
    "fp16": "not in fp32: ncnn computes in half floats on these cores",
    "fp32": "not in fp16: timings of 32-bit floats",
}


def is_predicted(device_id: str) -> bool:
    """Whether a device's figures are predicted, as its plug-in's TRAITS say."""
    return traits_of(device_id).source is Source.PREDICTED


def catalogue() -> Sequence[SimulatedDevice]:
    """Every simulated device: `id`, `name`, `class`, `status`, `blocks` with their errors."""
    return cast("list[SimulatedDevice]", simulator().catalogue())  # the plug-in is taken at its word


def profile_of(device_id: str) -> Json:
    """The whole profile of a `sim:ID`.

    Raises:
        UsageError: there is none.
    """
    return simulator().show(device_id)


def predict(
    artifact: Path,
    devices: Sequence[str] = (),
    *,
    runtime: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    predictor: str | None = None,
    host: Callable[[Path, Events], HostMeasurement] | None = None,
    budget_ms: float | None = None,
    budget_mb: float | None = None,
    events: Events = QUIET,
) -> Predictions:
    """Predict a file on simulated devices (none named: all of them).

    With `host`, which is `this_machine.measured_here`, the file is measured on this machine first, and that corrects
    the operator classes. `events` is told of what takes long.

    Returns:
        `host`, what was measured, if it was; `predictions`, the fastest first, each a predicted measurement, and
        `refused`: device, reason, fix. With a budget each prediction has `meets_budget`: whether the upper end of its
        interval, or its memory, keeps within.

    Raises:
        UsageError: an unknown device, runtime, predictor, precision or file, no emulator for the predictor `counts`, or
            `host` with that predictor.
        DeviceError: the one device that was named has nothing to say, or this machine's measurements disagree.
    """
    if predictor not in (None, *simulator().PREDICTORS):
        raise UsageError(
            f"unknown predictor {predictor!r}",
            where="--predictor",
            expected=", ".join(simulator().PREDICTORS),
            got=repr(predictor),
            fix="use one of these, or leave it out",
        )
    if host is not None:
        _require_correctable(devices, runtime, predictor)
    measured = host(artifact, events) if host is not None else None
    found = simulator().predict(
        artifact,
        list(devices),
        runtime=runtime,
        threads=threads,
        precision=_arithmetic(precision),
        predictor="graph" if host else predictor,
        residual=measured["residual"] if measured else None,
        companions=companions_of(artifact),
        known=known_runtimes(),
        events=events,
    )
    for one in found["predictions"]:
        one.update(_named(one, runtime, precision))
    answer = cast("Predictions", found)  # the plug-in is taken at its word
    if measured:
        answer["host"] = measured
    if budget_ms is not None or budget_mb is not None:
        for prediction in answer["predictions"]:
            prediction["budget_reasons"] = _beyond(prediction, budget_ms, budget_mb)
            prediction["meets_budget"] = not prediction["budget_reasons"]
    return answer


def predict_files(artifacts: Sequence[Artifact], settings: Benchmark) -> list[Prediction]:
    """One predicted measurement per artifact on `settings.device`, with `settings.threads`.

    Raises:
        UsageError: an unknown device.
        DeviceError: the device has nothing to say of an artifact.
    """
    found: list[Prediction] = []
    for artifact in artifacts:
        made = predict(artifact.path, [settings.device], threads=settings.threads)["predictions"]
        for one in made:
            one["artifact"] = artifact.id
        found += made
    return found


def _require_correctable(devices: Sequence[str], runtime: str | None, predictor: str | None) -> None:
    """Before minutes are spent on it.

    Raises:
        UsageError: there will be nothing to correct, or a device or runtime is unknown.
    """
    if predictor == "counts":
        raise UsageError(
            "counts are not corrected by a measurement on this machine",
            where="--host",
            expected="--predictor graph",
            got="--predictor counts",
            fix="leave one of the two out",
        )
    for device in devices:
        simulator().show(device)
    simulator().require_runtime(runtime)


def simulator() -> Predicts:
    """The plug-in that has the simulated devices."""
    return first_that("devices", Predicts)


def _arithmetic(precision: str | None) -> str | None:
    """A precision as profiles know it: `float`, whose width the core decides, or `int8`.

    Raises:
        UsageError: no profile knows such a precision.
    """
    if precision in (None, "float"):
        return precision
    parsed = Precision.parse(str(precision))
    if parsed in _INTEGERS:
        return "int8"
    if parsed in _FLOATS:
        return "float"
    raise UsageError(
        f"no profile has timings in {parsed.value}",
        where="--precision",
        expected="fp32, fp16, int8",
        got=parsed.value,
        fix="measure it on the board itself",
    )


def _named(prediction: Json, runtime: str | None, precision: str | None) -> Json:
    """Runtime and int8 under the names that were asked for, floats as they are; `arithmetic` is what the profile knows.

    A flag says where the floats are not those that were asked for.
    """
    arithmetic, told = prediction["precision"], prediction.pop("floats")
    flags = list(prediction["flags"])
    if arithmetic == "int8":
        told = "int8" if precision in (None, "float") else str(precision)
    elif precision not in (None, "float", told):
        flags.append(_OTHER_FLOATS[told])
    return {"runtime": runtime or prediction["runtime"], "precision": told, "arithmetic": arithmetic, "flags": flags}


def _beyond(prediction: Prediction, budget_ms: float | None, budget_mb: float | None) -> list[str]:
    """Which budget is not kept: the upper end of the interval counts; so does the whole memory."""
    late = budget_ms is not None and prediction["interval80_ms"][1] > budget_ms
    large = budget_mb is not None and prediction["predicted_memory_bytes"]["total"] > budget_mb * 1e6
    return (["80% interval above the budget"] if late else []) + (["memory above the budget"] if large else [])
