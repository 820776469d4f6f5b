"""Emulated runs of a file, each core's once, and why a prediction does without."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from edgedistill.errors import ArtifactError, DeviceError, UsageError

from .._arm.layout import layout
from .answer import choose
from .graphs.read import RUNTIME_OF, runnable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from edgedistill.events import Events
    from edgedistill.types import Array, Runtime

    from .answer import Choice
    from .graphs.graph import Graph
    from .profiles import Profile


class Counts:
    """A file's counts by runtime and core: each is made once, and so is a failure."""

    def __init__(self, files: tuple[Path, ...], graph: Graph, known: Mapping[str, Runtime], events: Events) -> None:
        self.files, self.path, self.graph = files, files[0], graph
        self.openers, self.events = {name: one.opener for name, one in known.items()}, events
        self.known: dict[tuple[str, str], Array | ArtifactError] = {}
        self.expected = 1

    def expect(self, profiles: Iterable[Profile], wanted: tuple[str | None, int | None, str]) -> None:
        """How many runs these profiles' predictions will ask for, where `choose` is asked for `wanted`."""
        runs = set()
        for profile in profiles:
            with suppress(DeviceError):  # it refuses, and will be asked again
                choice = choose(profile, *wanted)
                costs = choice.block.counts
                if costs is not None and costs.kernels and _not_to_be_counted(self.path, self.graph, choice) is None:
                    runs.add((choice.runtime, costs.kernels))
        self.expected = len(runs)

    def of(self, runtime: str, core: str) -> Array:
        """The features of one inference.

        Raises:
            ArtifactError: it cannot be converted or run.
        """
        if (runtime, core) not in self.known:
            self.events.step(f"emulate {self.path.name} in {runtime} on {core}", len(self.known), self.expected)
            try:
                self.known[runtime, core] = self._made(runtime, core)
            except ArtifactError as error:
                self.known[runtime, core] = error
        found = self.known[runtime, core]
        if isinstance(found, ArtifactError):
            raise found
        return found

    def _made(self, runtime: str, core: str) -> Array:
        from .emulate import counted

        files, shapes = runnable(self.files, runtime)
        name = {"tflite": "litert"}.get(runtime, runtime)
        return counted(files, name, self.openers[name], core, shapes)


def counted_for(
    counts: Counts, profile: Profile, choice: Choice, predictor: str | None
) -> tuple[Array | None, list[str]]:
    """The counts, if they are to be used; and what to say where they could not be."""
    costs = choice.block.counts
    if predictor == "graph" or (costs is None and predictor is None):
        return None, []
    if costs is None or costs.kernels is None:
        raise DeviceError(
            f"{profile.id} has no costs per instruction for {choice.block.runtime} {choice.block.precision}",
            where=f"device: sim:{profile.id}",
            expected="an ARM board with anchors that were counted",
            got="--predictor counts",
            fix="--predictor graph",
        )
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
        where=str(counts.path),
        expected=f"a {choice.block.precision} file that {choice.runtime} opens",
        got=reason,
        fix=f"export it for {choice.runtime}, or --predictor graph",
    )


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
