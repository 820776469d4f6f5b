"""Simulated devices: `sim:raspberry-pi-4b` and others. A predicted latency with a stated error; nothing runs there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.errors import ArtifactError, DeviceError, EdgeDistillError, UsageError
from edgedistill.types import DeviceInfo, file_sha256

from . import _predict_profile as shelf
from ._arm_layout import layout
from ._predict_answer import answer, choose
from ._predict_read import RUNTIME_OF, read_graph, runnable

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Array, BenchmarkJob, BenchmarkResult, Json

    from ._predict_answer import Choice
    from ._predict_graph import Graph
    from ._predict_profile import Profile

REQUIRES: tuple[str, ...] = ()
SCHEME = "sim"
SOURCE = "predicted"
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


def run(device_id: str, job: BenchmarkJob) -> BenchmarkResult:
    """Nothing runs on a simulated device.

    Raises:
        UsageError: always; it says what does.
    """
    raise UsageError(
        f"nothing runs on {device_id}: it is simulated", where=f"device: {device_id}",
        expected="a device that computes, such as cpu or arm:cortex-a53", got=job.artifact.name,
        fix=f"edgedistill devices predict {job.artifact.name} --device {device_id} tells its latency",
    )  # fmt: skip


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
                        "runtime": block.runtime, "threads": block.threads, "affinity": block.affinity,
                        "precision": block.precision, "predictor": kind, "status": block.status,
                        "anchors": predictor.anchors, "mdape": predictor.mdape,
                    }
                )  # fmt: skip
    return {
        "id": f"sim:{profile.id}", "name": profile.name, "class": profile.class_, "status": profile.status,
        "soc": profile.soc, "blocks": blocks, "app_budget_mb": profile.memory.app_budget_mb,
    }  # fmt: skip


def predict(
    path: Path, names: list[str], *, runtime: str | None = None, threads: int | None = None,
    precision: str | None = None, predictor: str | None = None,
) -> Json:  # fmt: skip
    """A file's latency and memory on simulated devices: `predictions`, fastest first, and `refused`, with reasons.

    Args:
        path: .onnx, .tflite, .xml or .param; an ONNX file is told as if converted to the runtime.
        names: profiles; none: all of them.
        runtime: default: the file's own, for ONNX each profile's best-founded one.
        threads: default: 1, or the fewest that a profile has.
        precision: `float` or `int8`; default: the file's own.
        predictor: `counts` or `graph`; default: counts where a profile has them and the emulator is installed.

    Raises:
        UsageError: an unknown profile or file; `counts` was asked for, and the emulator is not installed.
        DeviceError: the only device that was named refuses.
    """
    graph = read_graph(path)
    found = [shelf.find(name.removeprefix("sim:")) for name in names] if names else list(shelf.profiles().values())
    if predictor == "counts":
        layout().require()
    told = precision or ("int8" if graph.quantized else "float")
    asked = runtime or (None if path.suffix == ".onnx" else RUNTIME_OF[path.suffix])
    digest, predictions, refused = file_sha256(path), [], []
    counts = _Counts(path, graph)
    for profile in found:
        try:
            made = _predict(counts, profile, choose(profile, asked, threads, told), predictor)
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


def _predict(counts: _Counts, profile: Profile, choice: Choice, predictor: str | None) -> Json:
    counted, note = _counted(counts, profile, choice, predictor)
    found = answer(profile, choice, counts.graph, counted)
    return {**found, "flags": [*found["flags"], *note]}


def _counted(
    counts: _Counts, profile: Profile, choice: Choice, predictor: str | None
) -> tuple[Array | None, list[str]]:
    """The counts, if they are to be used; and what to say where they could not be."""
    costs = choice.block.counts
    if predictor == "graph" or (costs is None and predictor is None):
        return None, []
    if costs is None or costs.kernels is None:
        raise DeviceError(
            f"{profile.id} has no costs per instruction for {choice.block.runtime} {choice.block.precision}",
            where=f"device: sim:{profile.id}", expected="an ARM board with anchors that were counted",
            got="--predictor counts", fix="--predictor graph",
        )  # fmt: skip
    if predictor is None and not layout().lock.is_file():
        return None, ["by operator classes: the emulator that counts is not installed (edgedistill arm setup)"]
    reason = _not_to_be_counted(counts.path, counts.graph, choice)
    if reason is None:
        try:
            return counts.of(choice.runtime, costs.kernels), []
        except ArtifactError as error:
            if predictor is not None:
                raise
            reason = f"{error.message} ({error.got})"
    if predictor is None:
        return None, [f"by operator classes: {reason}"]
    raise UsageError(
        f"{counts.path.name} cannot be counted for {choice.runtime} {choice.block.precision}: {reason}",
        where=str(counts.path), expected=f"a {choice.block.precision} file that {choice.runtime} opens", got=reason,
        fix=f"export it for {choice.runtime}, or --predictor graph",
    )  # fmt: skip


def _not_to_be_counted(path: Path, graph: Graph, choice: Choice) -> str | None:
    """Why a file's instructions would not be those that the block's costs belong to."""
    own = "int8" if graph.quantized else "float"
    if own != choice.block.precision:
        return f"the file is {own}"
    foreign = RUNTIME_OF[path.suffix] != choice.runtime
    if foreign and (path.suffix, choice.runtime) != (".onnx", "ncnn"):
        return f"{path.suffix} files are not turned into files of {choice.runtime} here"
    if foreign and graph.quantized:
        return f"a quantised {path.suffix} file is not turned into one of {choice.runtime}"
    return None


class _Counts:
    """A file's counts by runtime and core: each is made once, and so is a failure."""

    def __init__(self, path: Path, graph: Graph) -> None:
        self.path, self.graph = path, graph
        self.known: dict[tuple[str, str], Array | ArtifactError] = {}

    def of(self, runtime: str, core: str) -> Array:
        """The features of one inference.

        Raises:
            ArtifactError: it cannot be converted or run.
        """
        if (runtime, core) not in self.known:
            try:
                self.known[runtime, core] = self._made(runtime, core)
            except ArtifactError as error:
                self.known[runtime, core] = error
        found = self.known[runtime, core]
        if isinstance(found, ArtifactError):
            raise found
        return found

    def _made(self, runtime: str, core: str) -> Array:
        from ._predict_emulate import counted

        file, shapes = runnable(self.path, runtime)
        return counted(file, {"tflite": "litert"}.get(runtime, runtime), core, shapes)


def remake() -> list[Path]:
    """Write the shipped profiles anew, and what else is made of the published tables."""
    from ._predict_remake import remake as made

    return made()


def validation() -> Json:
    """The predictors' errors on the published rows (`_predict_validation.validation`)."""
    from ._predict_validation import validation as found

    return found()


def memory_features(path: Path) -> dict[str, float]:
    """What the memory model reads from a file, by name (`_predict_memory.FEATURES`)."""
    from ._predict_memory import FEATURES, features

    return dict(zip(FEATURES, features(read_graph(path)).tolist(), strict=True))


def require_free(name: str, *, replace: bool) -> None:
    """Whether an own profile of this name may be written (`_predict_own.require_free`)."""
    from ._predict_own import require_free as check

    check(name, replace=replace)


def calibrate(
    name: str, rows: list[Json], facts: Json, *, runtime: str, threads: int, app_budget_mb: float | None
) -> Json:
    """Write a profile of the user's own board (`_predict_own.calibrate`)."""
    from ._predict_own import calibrate as made

    return made(name, rows, facts, runtime=runtime, threads=threads, app_budget_mb=app_budget_mb)
