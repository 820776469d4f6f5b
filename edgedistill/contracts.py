"""What a plug-in must have, and what it may offer besides: Protocols, nothing else.

A shelf's Protocol is what every plug-in on it has. A capability is a Protocol of verbs that go together: a plug-in has
all of them or none, with these parameters (`edgedistill/plugins.py` checks, `edgedistill plugins` tells).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from edgedistill import agent
    from edgedistill.events import Events
    from edgedistill.types import (
        AgentAnswer,
        AgentCall,
        Array,
        Artifact,
        Check,
        DeviceInfo,
        Inventory,
        Json,
        MacCount,
        Operator,
        Precision,
        QuantizationScheme,
        Runtime,
        Signature,
        TracedTensor,
        TrainedRange,
        Traits,
    )

Shelf = Literal["exporters", "devices", "benchmarks"]


class Exporter(Protocol):
    """Writes one runtime format.

    Attributes:
        REQUIRES: import names of the libraries it needs.
        TOOLS: distributions whose versions decide what it writes (part of the stage's key).
        OPENER: the runtime file (`Opener`) that is sent beside the agent and opens its files there.
        RUNTIMES: the opener's: runtimes that open its files -> (module, distribution).
        PRECISIONS: what it can write.
        SUFFIX: ending of the main file, `.onnx`.
        RUNNER: (file name in the bundle, path of the stand-alone script that runs such a file).
    """

    REQUIRES: tuple[str, ...]
    TOOLS: tuple[str, ...]
    OPENER: Path
    RUNTIMES: Mapping[str, tuple[str, str]]
    PRECISIONS: tuple[Precision, ...]
    SUFFIX: str
    RUNNER: tuple[str, Path]

    def export(
        self,
        model: Any,
        name: str,
        signature: Signature,
        out: Path,
        examples: Mapping[str, Array] | None = None,
        opset: int | None = None,
    ) -> Artifact:
        """Write a model as fp32 into the folder `out`.

        `model` is a torch module in eval mode, or the path of an ONNX file; `examples` are inputs to trace with, where
        made-up ones would not do; `opset` is ONNX's.
        """
        ...

    def quantize(
        self,
        artifact: Artifact,
        precision: Precision,
        calibration: Mapping[str, Array],
        out: Path,
        scheme: QuantizationScheme | None = None,
    ) -> Artifact:
        """Write a quantised copy of an fp32 artifact into `out`; calibration: input name -> samples.

        Samples are read one after the other: memory does not grow with their number.
        """
        ...

    def schemes(self, precision: Precision) -> tuple[QuantizationScheme, ...]:
        """The ways to a precision that are worth measuring, the default first."""
        ...

    def layers(self, artifact: Artifact) -> list[str]:
        """Names of the layers of an fp32 artifact that a scheme may keep in float, in the order of the graph."""
        ...

    def check_support(self, artifact: Artifact) -> list[Check]:
        """Open the file as its runtime would; one check per thing that could keep it from running."""
        ...

    def count_macs(self, artifact: Artifact) -> MacCount:
        """MACs of one inference at batch 1, and how many of them run on 8-bit integers."""
        ...


class Opener(Protocol):
    """A format's runtime file: opens its files wherever the agent runs, which loads it by its path.

    It stands alone as the agent does: Python 3.8, the standard library, numpy and, imported inside its functions, one
    of its runtimes; nothing of EdgeDistill, since the agent hands itself in. Besides, it may have

    - `open_reference(agent, runtime, path, threads, given)`: `open` with the runtime's plain reference kernels;
    - `profile(agent, runtime, path, threads, samples, count)`: the rows of `agent.operators`, over so many inferences
      of the samples (each the arrays of one inference, in the order of the inputs).

    Attributes:
        RUNTIMES: runtime -> (the module to import, the distribution whose version counts).
    """

    RUNTIMES: dict[str, tuple[str, str]]

    def open(
        self, agent: Agent, runtime: str, path: str, threads: int, given: dict[str, agent.Given] | None
    ) -> agent.Session:
        """Open a file; any error means that the runtime refuses it. `given`: input -> shape of one sample, if known."""
        ...


class Agent(Protocol):
    """What the agent has for an opener.

    Attributes:
        Session: a model opened: its inputs and outputs (rows of name, shape, dtype and perhaps quantization), what runs
            one inference (arrays in, arrays out), facts for the document, and perhaps the runtime's own clock.
    """

    @property
    def Session(self) -> type[agent.Session]:  # noqa: N802 - a class of the agent
        """See above."""
        ...

    def sized(self, name: str, shape: list[Any], dtype: str, sample: agent.Given | None) -> dict[str, Any]:
        """An input's row; its axes without a size get the sample's, the first one 1, others are told as `unsized`."""
        ...

    def samples_of(self, names: list[str], given: dict[str, agent.Given] | None) -> list[agent.Given | None]:
        """The shape of a sample for each input, by name, else by order."""
        ...

    def operators(self, taken: list[tuple[str, str, float]], count: int) -> list[dict[str, Any]]:
        """Rows of a profile, out of (name, type, milliseconds) of every time that an operator ran."""
        ...


class TrainsRanges(Protocol):
    """An exporter of files with activations in integers that takes ranges which were trained."""

    def quantize_trained(
        self,
        artifact: Artifact,
        trained: Sequence[TrainedRange],
        samples: Mapping[str, Array],
        out: Path,
        precision: Precision,
        *,
        float_ends: bool,
    ) -> Artifact:
        """A copy of an fp32 artifact with the ranges that quantisation-aware training found."""
        ...


class TellsOperators(Protocol):
    """An exporter that knows what its runtimes refuse."""

    def inventory(self, artifact: Artifact) -> Inventory:
        """What the file is made of, and which runtimes must not be given it; read without a runtime."""
        ...

    def foresee(
        self, model: Any, signature: Signature, examples: Mapping[str, Array] | None, opset: int | None
    ) -> list[Operator]:
        """The operators of a model that is to be converted, with those that the format refuses, never one it takes."""
        ...


class ShowsTensors(Protocol):
    """An exporter that gives the value of every tensor of its files."""

    def tensors(self, artifact: Artifact, runtime: str, inputs: Path) -> list[TracedTensor]:
        """Every tensor for the one sample of an .npz, in the order of the graph."""
        ...


class KeepsMetadata(Protocol):
    """An exporter whose format has a place for metadata."""

    def embed(self, path: Path, metadata: Json) -> None:
        """Write a document into the file; the same document gives the same bytes."""
        ...

    def metadata(self, path: Path) -> Json | None:
        """What the file holds of our metadata; None: nothing."""
        ...


class HasReference(Protocol):
    """An exporter of whose runtimes one is the reference that the others must agree with.

    Attributes:
        REFERENCE: that runtime.
    """

    REFERENCE: str

    def output_steps(self, path: Path) -> list[float]:
        """For each output one step of its quantisation, in units of the output; 0 for one in float."""
        ...


class HasCompanions(Protocol):
    """An exporter of files whose weights stand in others beside them."""

    def companions(self, path: Path) -> tuple[Path, ...]:
        """Those files, in the folder of `path` or below, as far as it can be read.

        One that is not there is told before anything opens the file: leave out what `inventory` tells better.
        """
        ...


class Device(Protocol):
    """A place where artifacts run.

    Attributes:
        REQUIRES: import names of the libraries it needs.
        SCHEME: what its ids begin with: `cpu`, or `ssh` for `ssh:NAME`.
        TRAITS: what its figures are, and what it can do.
    """

    REQUIRES: tuple[str, ...]
    SCHEME: str
    TRAITS: Traits

    def describe(self, device_id: str) -> DeviceInfo:
        """What the device is."""
        ...

    def run(self, device_id: str, job: AgentCall) -> AgentAnswer:
        """Run the agent there, in a fresh process."""
        ...


class Lists(Protocol):
    """A device plug-in with several devices that users may name."""

    def devices(self) -> list[DeviceInfo]:
        """All that are known, without touching them."""
        ...


class HasRuntimes(Protocol):
    """A device plug-in whose devices have runtimes of their own; others have those of this machine."""

    def runtimes(self, device_id: str, known: Mapping[str, Runtime]) -> dict[str, str]:
        """The runtimes on a device, out of those that exporters bring (`known`), and their versions."""
        ...


class Installs(Protocol):
    """A device plug-in that can install runtimes on its devices."""

    def bootstrap(
        self,
        device_id: str,
        wanted: Sequence[str],
        wheels: Path | None,
        known: Mapping[str, Runtime],
        events: Events,
    ) -> Json:
        """Install runtimes, out of those that exporters bring (`known`); `id`, `python`, `venv`, `versions`."""
        ...


class SetsUp(Protocol):
    """A device plug-in that needs something installed on this machine first."""

    def setup(self, events: Events, *, again: bool) -> Json:
        """Install what is not there yet; `status()` afterwards, with `changed`."""
        ...

    def status(self) -> Json:
        """What is installed, from where, how large."""
        ...


class Predicts(Protocol):
    """A device plug-in whose devices are profiles: nothing runs there, latency and memory are predicted.

    Attributes:
        PREDICTORS: the ways to predict, by name.
    """

    PREDICTORS: tuple[str, ...]

    def catalogue(self) -> list[Json]:
        """Every profile in short: id, name, class, status, and the errors of its blocks."""
        ...

    def show(self, name: str) -> Json:
        """A whole profile."""
        ...

    def require_runtime(self, runtime: str | None) -> None:
        """Whether a runtime, if one is asked for, is one that some profile knows."""
        ...

    def predict(
        self,
        path: Path,
        names: list[str],
        *,
        runtime: str | None,
        threads: int | None,
        precision: str | None,
        predictor: str | None,
        residual: float | None,
        companions: tuple[Path, ...],
        known: Mapping[str, Runtime],
        events: Events,
    ) -> Json:
        """A file's latency and memory on profiles (none named: on all): `predictions` and `refused`.

        `companions` hold its weights beside it; `known` are the runtimes that exporters bring.
        """
        ...


class CorrectsByHost(Protocol):
    """A predicting plug-in whose predictions a measurement on this machine can correct."""

    def host_runnable(self, path: Path, companions: tuple[Path, ...]) -> tuple[str, Path, dict[str, tuple[int, ...]]]:
        """The runtime to measure in, the file that it opens, and its inputs' shapes."""
        ...

    def host_expected_ms(self, machine: str) -> Callable[[Path], float]:
        """What the profiles' evidence says of files on an architecture."""
        ...


class Calibrates(Protocol):
    """A predicting plug-in that makes profiles of boards of the user's own."""

    def require_free(self, name: str, *, replace: bool) -> None:
        """Whether a profile of this name may be written."""
        ...

    def calibrate(
        self, name: str, rows: list[Json], facts: Json, *, runtime: str, threads: int, app_budget_mb: float | None
    ) -> Json:
        """Write a profile made of measured rows."""
        ...


class ShowsEvidence(Protocol):
    """A predicting plug-in that can make its shipped profiles anew, and say how far they were wrong."""

    def remake(self) -> list[Path]:
        """Write the shipped profiles again, from the published tables."""
        ...

    def validation(self) -> Json:
        """Errors on rows that no fit saw."""
        ...

    def memory_features(self, path: Path) -> dict[str, float]:
        """What the memory model reads from a file, by name."""
        ...


class Benchmark(Protocol):
    """Turns the agent's documents into fields of a measurement.

    One process of the agent serves every benchmark, so that latency and memory are those of the same run.
    """

    REQUIRES: tuple[str, ...]

    def measure(self, results: Sequence[AgentAnswer]) -> Json:
        """Fields to put into the measurement, from the documents of its rounds.

        `flags` (a list of texts) and `valid` (false when its own rules were not met) are merged over all benchmarks.
        """
        ...


REQUIRED: dict[Shelf, type] = {"exporters": Exporter, "devices": Device, "benchmarks": Benchmark}
"""What every plug-in of a shelf has."""
CAPABILITIES: dict[Shelf, tuple[type, ...]] = {
    "exporters": (TrainsRanges, TellsOperators, ShowsTensors, KeepsMetadata, HasReference, HasCompanions),
    "devices": (Lists, HasRuntimes, Installs, SetsUp, Predicts, CorrectsByHost, Calibrates, ShowsEvidence),
    "benchmarks": (),
}
"""What one may offer besides, each whole or not at all."""
