"""Simulated devices: `sim:raspberry-pi-4b` and others. A predicted latency with a stated error; nothing runs there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.errors import DeviceError, EdgeDistillError, UsageError
from edgedistill.events import QUIET
from edgedistill.types import DeviceInfo, Source, Traits, file_sha256

from .._arm.layout import layout
from . import profiles as shelf
from .answer import answer, choose, require_known, usual_runtime
from .counting import Counts, counted_for
from .graphs.read import RUNTIME_OF, read_graph, runnable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgedistill.events import Events
    from edgedistill.types import AgentAnswer, AgentCall, Json, Runtime

    from .answer import Choice
    from .profiles import Profile

REQUIRES: tuple[str, ...] = ()
SCHEME = "sim"
TRAITS = Traits(Source.PREDICTED, computes=False)
PREDICTORS = ("counts", "graph")


def describe(device_id: str) -> DeviceInfo:
    """The profile's device; the bare scheme stands for all."""
    _, _, name = device_id.partition(":")
    if not name:
        return DeviceInfo(device_id, f"{len(shelf.profiles())} simulated devices", "simulated", 1, 0)
    found = shelf.find(name)
    cores = sum(cluster.count for cluster in found.clusters)
    memory = found.memory.ram_mb * 2**20 if found.memory.ram_mb else (found.memory.sram_kb or 0) * 1024
    return DeviceInfo(device_id, found.name, found.class_, cores, round(memory))


def run(device_id: str, job: AgentCall) -> AgentAnswer:
    """Nothing runs on a simulated device.

    Raises:
        UsageError: always; it says what does.
    """
    raise UsageError(
        f"nothing runs on {device_id}: it is simulated",
        where=f"device: {device_id}",
        expected="a device that computes, such as cpu or arm:cortex-a53",
        got=job.artifact.name,
        fix=f"edgedistill devices predict {job.artifact.name} --device {device_id} tells its latency",
    )


def catalogue() -> list[Json]:
    """Every profile in short: id, name, class, status, and the errors of its blocks."""
    return [_summary(profile) for profile in shelf.profiles().values()]


def show(name: str) -> Json:
    """A whole profile as JSON, with its summary's keys.

    Raises:
        UsageError: there is none of this id.
    """
    found = shelf.find(name.removeprefix("sim:"))
    return {**found.model_dump(mode="json", by_alias=True), **_summary(found)}


def _summary(profile: Profile) -> Json:
    blocks = []
    for block in profile.runtimes:
        for kind in PREDICTORS:
            predictor = getattr(block, kind)
            if predictor is not None:
                blocks.append(
                    {
                        "runtime": block.runtime,
                        "threads": block.threads,
                        "affinity": block.affinity,
                        "precision": block.precision,
                        "predictor": kind,
                        "status": block.status,
                        "anchors": predictor.anchors,
                        "mdape": predictor.mdape,
                    }
                )
    return {
        "id": f"sim:{profile.id}",
        "name": profile.name,
        "class": profile.class_,
        "status": profile.status,
        "soc": profile.soc,
        "blocks": blocks,
        "app_budget_mb": profile.memory.app_budget_mb,
    }


def predict(
    path: Path,
    names: list[str],
    *,
    runtime: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    predictor: str | None = None,
    residual: float | None = None,
    companions: tuple[Path, ...],
    known: Mapping[str, Runtime],
    events: Events = QUIET,
) -> Json:
    """A file's latency and memory on simulated devices: `predictions`, fastest first, and `refused`, with reasons.

    Args:
        path: .onnx, .tflite, .xml or .param; an ONNX file is told as if converted to the runtime.
        names: profiles; none: all of them.
        runtime: default: the file's own, for ONNX each profile's best-founded one.
        threads: default: 1, or the fewest that a profile has.
        precision: `float` or `int8`; default: the file's own.
        predictor: `counts` or `graph`; default: counts where a profile has them and the emulator is installed.
        residual: measured over expected milliseconds of the file on this machine (`host_expected_ms`).
        companions: files beside it that hold its weights.
        known: runtimes that exporters bring, whose openers count.
        events: told before every emulated run.

    Raises:
        UsageError: an unknown profile, runtime or file; `counts` was asked for, and the emulator is not installed.
        DeviceError: the only device that was named refuses.
    """
    require_runtime(runtime)
    graph = read_graph(path)
    found = [shelf.find(name.removeprefix("sim:")) for name in names] if names else list(shelf.profiles().values())
    if predictor == "counts":
        layout().require()
    told = precision or ("int8" if graph.quantized else "float")
    own = None if path.suffix == ".onnx" else RUNTIME_OF[path.suffix]
    digest, predictions, refused = file_sha256(path), [], []
    counts = Counts((path, *companions), graph, known, events)
    if predictor != "graph" and layout().lock.is_file():
        counts.expect(found, (runtime or own, threads, told))
    for profile in found:
        asked = runtime or (own and usual_runtime(profile, own))
        try:
            made = _predict(counts, profile, choose(profile, asked, threads, told), predictor, residual)
        except DeviceError as error:
            if len(found) == 1:
                raise
            refused.append(_refusal(profile, error))
        else:
            predictions.append({"artifact": path.stem, "artifact_sha256": digest, **made})
    predictions.sort(key=lambda one: one["latency_ms"]["p50"])
    return {"predictions": predictions, "refused": refused}


def _refusal(profile: Profile, error: EdgeDistillError) -> Json:
    return {"device": f"sim:{profile.id}", "reason": error.message, "fix": error.fix}


def _predict(counts: Counts, profile: Profile, choice: Choice, predictor: str | None, residual: float | None) -> Json:
    counted, note = counted_for(counts, profile, choice, predictor)
    found = answer(profile, choice, counts.graph, counted, residual)
    return {**found, "flags": [*found["flags"], *note]}


def remake() -> list[Path]:
    """Write the shipped profiles anew, and what else is made of the published tables."""
    from .workshop.remake import remake as made

    return made()


def validation() -> Json:
    """The predictors' errors on the published rows (`workshop/validation.py`)."""
    from .workshop.validation import validation as found

    return found()


def host_runnable(path: Path, companions: tuple[Path, ...]) -> tuple[str, Path, dict[str, tuple[int, ...]]]:
    """The runtime whose times correct predictions, the file that it opens, and its inputs' shapes, batch 1.

    Raises:
        UsageError: a quantised file, or one of another runtime.
        ArtifactError: it cannot be converted.
    """
    from .host import RUNTIME

    if path.suffix not in (".onnx", ".param") or read_graph(path).quantized:
        raise UsageError(
            f"{path.name} cannot be measured here to correct predictions",
            where=str(path),
            expected=f"a float file of ONNX or {RUNTIME}, whose timings the boards' are",
            got=path.suffix,
            fix="leave --host out, or give the ONNX file that this one was made of",
        )
    (file, *_), shapes = runnable((path, *companions), RUNTIME)
    return RUNTIME, file, shapes


def host_expected_ms(machine: str) -> Callable[[Path], float]:
    """What operator classes say of files on an architecture (`host.expectation`)."""
    from .host import expectation

    return expectation(machine)


def memory_features(path: Path) -> dict[str, float]:
    """What the memory model reads from a file, by name (`memory.FEATURES`)."""
    from .memory import features

    return features(read_graph(path))


def require_runtime(runtime: str | None) -> None:
    """Whether a runtime, if one is asked for, is one that some profile knows (`answer.require_known`)."""
    require_known(runtime, shelf.profiles().values())


def require_free(name: str, *, replace: bool) -> None:
    """Whether an own profile of this name may be written (`workshop.own.require_free`)."""
    from .workshop.own import require_free as check

    check(name, replace=replace)


def calibrate(
    name: str, rows: list[Json], facts: Json, *, runtime: str, threads: int, app_budget_mb: float | None
) -> Json:
    """Write a profile of the user's own board (`workshop.own.calibrate`)."""
    from .workshop.own import calibrate as made

    return made(name, rows, facts, runtime=runtime, threads=threads, app_budget_mb=app_budget_mb)
