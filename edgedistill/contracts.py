"""What a plug-in must have, and what it may offer besides: Protocols, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgedistill.types import (
        Array,
        Artifact,
        BenchmarkJob,
        BenchmarkResult,
        Check,
        DeviceInfo,
        Json,
        MacCount,
        Precision,
        Scheme,
        Signature,
    )


Shelf = Literal["exporters", "devices", "benchmarks"]


class Exporter(Protocol):
    """Writes one runtime format.

    Attributes:
        REQUIRES: import names of the libraries it needs.
        TOOLS: distributions whose versions decide what it writes (part of the stage's key).
        RUNTIMES: agent runtimes that open its files -> import name of the runtime.
        PRECISIONS: what it can write.
        SUFFIX: ending of the main file, `.onnx`.
        RUNNER: (file name in the bundle, path of the stand-alone script that runs such a file).

    An exporter of files with activations in integers may also have
    `quantize_trained(artifact, trained, samples, out, precision, *, float_ends)`: a copy of an fp32 artifact with the
    ranges that quantisation-aware training found (`TrainedRange`).

    It may also tell of operators: `inventory(artifact)`, an Inventory read without the runtime; `refusals(artifact)`,
    runtime -> why it must not be given the file; `foresee(model, signature, examples, opset)`, the operators of a model
    that is to be converted, with those that the format refuses (never one that it takes).
    """

    REQUIRES: tuple[str, ...]
    TOOLS: tuple[str, ...]
    RUNTIMES: Mapping[str, str]
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
        scheme: Scheme | None = None,
    ) -> Artifact:
        """Write a quantised copy of an fp32 artifact into `out`; calibration: input name -> samples.

        Samples are read one after the other: memory does not grow with their number.
        """
        ...

    def schemes(self, precision: Precision) -> tuple[Scheme, ...]:
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


class Device(Protocol):
    """A place where artifacts run.

    Attributes:
        REQUIRES: import names of the libraries it needs.
        SCHEME: what its ids begin with: `cpu`, or `ssh` for `ssh:NAME`.

    A plug-in may also have SOURCE ("emulated": nothing there is timed), RUNTIMES (those it has, where it has not all),
    OWN_RUNTIMES (format -> runtimes that no exporter names) and REFERENCES (what these are compared with here).

    It may also tell what it has: `devices()`, ids that users may name, without touching them; `runtimes(device_id)`,
    the agent's runtimes on one and their versions (or RUNTIMES, the same on all), else it has those of this machine;
    AGENT, false where no agent runs, so that there are no outputs and perhaps no single latencies; `bootstrap`.
    """

    REQUIRES: tuple[str, ...]
    SCHEME: str

    def describe(self, device_id: str) -> DeviceInfo:
        """What the device is."""
        ...

    def run(self, device_id: str, job: BenchmarkJob) -> BenchmarkResult:
        """Run the agent there, in a fresh process."""
        ...


class Benchmark(Protocol):
    """Turns the agent's documents into fields of a measurement.

    One process of the agent serves every benchmark, so that latency and memory are those of the same run.
    """

    REQUIRES: tuple[str, ...]

    def measure(self, results: Sequence[BenchmarkResult]) -> Json:
        """Fields to put into the measurement, from the documents of its rounds.

        `flags` (a list of texts) and `valid` (false when its own rules were not met) are merged over all benchmarks.
        """
        ...
