"""The nouns: frozen dataclasses shared by the core and the shelves. Units stand in the names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from edgedistill.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from edgedistill.documents.answers import DeviceDocument, OperatorDocument
    from edgedistill.documents.artifacts import Facts, FileDocument, SignatureDocument, TensorDocument
    from edgedistill.documents.report import CheckDocument

    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = Any  # annotations are never evaluated; numpy is imported where it is used

Json = dict[str, Any]
"""A JSON object whose shape is open; the others are TypedDicts of `edgedistill/documents`."""


class Precision(StrEnum):
    """How the numbers inside an artifact are stored and computed."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8_STATIC = "int8-static"
    INT8_DYNAMIC = "int8-dynamic"
    INT8_WEIGHTS = "int8-weights"
    INT4_WEIGHTS = "int4-weights"
    INT8_QAT = "int8-qat"

    @property
    def short(self) -> str:
        """The name used in file names and recipes: fp32, int8."""
        return self.value.removesuffix("-static")

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Read a precision as users write it (`int8` means `int8-static`).

        Raises:
            UsageError: the word is not a precision.
        """
        for precision in cls:
            if text in (precision.value, precision.short):
                return precision
        raise UsageError(
            f"unknown precision {text!r}",
            expected=nearest(text, [p.short for p in cls]),
            got=repr(text),
            fix="use one of the known precisions",
        )


@dataclass(frozen=True)
class QuantizationScheme:
    """One way to reach a precision: a candidate that is measured against the others.

    Attributes:
        name: short and stable, for reports: `u8s8-minmax`.
        options: what the exporter's quantiser reads.
        keep_float: names of layers (as the exporter's `layers` gives them) that stay in float.
        placement: what is rounded, and with which types. Schemes of one placement hold other numbers and take the same
            time, so that one of them is measured for all.
    """

    name: str
    options: Json = field(default_factory=dict)
    keep_float: tuple[str, ...] = ()
    placement: str = ""


@dataclass(frozen=True)
class TrainedRange:
    """A tensor of the torch model whose 8-bit range was trained.

    Attributes:
        name: in the torch graph.
        low: value of the lowest of 256 levels; zero is one of the levels.
        high: value of the highest.
        probes: its values, flat and unrounded, for each of the first calibration samples: by them it is found in a
            file, where it may have another name and layout.
    """

    name: str
    low: float
    high: float
    probes: tuple[Array, ...]


class State(StrEnum):
    """The outcome of a check."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor. A string in `shape` is a dynamic axis."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    layout: str = ""

    def to_json(self) -> TensorDocument:
        """JSON form: name, shape, dtype, layout."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype, "layout": self.layout}

    @classmethod
    def from_json(cls, document: TensorDocument) -> TensorSpec:
        """Read what `to_json` wrote."""
        return cls(document["name"], tuple(document["shape"]), document["dtype"], document.get("layout", ""))


@dataclass(frozen=True)
class Normalization:
    """What an application does to a raw sample before the model: (raw - mean) / std, per channel.

    One value stands for all channels; the unit is that of the raw data (see `raw`).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    raw: str = "as stored in the data"


@dataclass(frozen=True)
class Signature:
    """The named inputs and outputs of a model, with what surrounds them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    normalization: Normalization
    labels: tuple[str, ...]

    def to_json(self) -> SignatureDocument:
        """JSON form of the contract: inputs, outputs, normalization, labels."""
        return {
            "inputs": [t.to_json() for t in self.inputs],
            "outputs": [t.to_json() for t in self.outputs],
            "normalization": {
                "formula": "(raw - mean) / std",
                "raw": self.normalization.raw,
                "mean": list(self.normalization.mean),
                "std": list(self.normalization.std),
            },
            "labels": list(self.labels),
        }

    @classmethod
    def from_json(cls, document: SignatureDocument) -> Signature:
        """Read what `to_json` wrote."""
        norm = document["normalization"]
        return cls(
            tuple(map(TensorSpec.from_json, document["inputs"])),
            tuple(map(TensorSpec.from_json, document["outputs"])),
            Normalization(tuple(norm["mean"]), tuple(norm["std"]), norm["raw"]),
            tuple(document["labels"]),
        )


@dataclass(frozen=True)
class Artifact:
    """A file (with companions, where the format has them) that a runtime opens.

    `size_bytes` counts every file; `sha256` is that of `path`, and `companions` maps each other
    file's name, from the folder of `path` on, to its own digest.
    """

    model: str
    format: str
    precision: Precision
    path: Path
    sha256: str
    size_bytes: int
    signature: Signature
    companions: dict[str, str] = field(default_factory=dict)
    producer: Facts = field(default_factory=dict)

    @property
    def id(self) -> str:
        """For example `student-tflite-int8`."""
        return f"{self.model}-{self.format}-{self.precision.short}"

    @property
    def files(self) -> tuple[Path, ...]:
        """The main file first, then its companions."""
        return (self.path, *(self.path.parent / name for name in self.companions))

    @classmethod
    def of_files(  # what an exporter knows once the file is written
        cls,
        path: Path,
        *,
        model: str,
        fmt: str,
        precision: Precision,
        signature: Signature,
        companions: tuple[Path, ...] = (),
        producer: Mapping[str, object] | None = None,
    ) -> Artifact:
        """Describe files that were just written: digests and sizes are read back from disk."""
        return cls(
            model=model,
            format=fmt,
            precision=precision,
            path=path,
            sha256=file_sha256(path),
            size_bytes=sum(p.stat().st_size for p in (path, *companions)),
            signature=signature,
            companions={p.relative_to(path.parent).as_posix(): file_sha256(p) for p in companions},
            producer=dict(producer or {}),
        )

    def to_json(self, root: Path) -> FileDocument:
        """JSON form with the path relative to `root`."""
        return {
            "id": self.id,
            "model": self.model,
            "format": self.format,
            "precision": self.precision.value,
            "path": self.path.relative_to(root).as_posix(),
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "companions": dict(self.companions),
            "signature": self.signature.to_json(),
            "producer": self.producer,
        }

    @classmethod
    def from_json(cls, document: FileDocument, root: Path) -> Artifact:
        """Read what `to_json` wrote, the path taken from `root`."""
        return cls(
            model=document["model"],
            format=document["format"],
            precision=Precision(document["precision"]),
            path=root / document["path"],
            sha256=document["sha256"],
            size_bytes=document["size_bytes"],
            signature=Signature.from_json(document["signature"]),
            companions=dict(document["companions"]),
            producer=dict(document["producer"]),
        )


@dataclass(frozen=True)
class Operator:
    """The operators of one kind in a file, or in a model that is to be converted.

    Attributes:
        domain: whose operator it is: `ai.onnx`, `tflite`, `opset8`, `ncnn`, `aten`.
        type: its name there.
        version: of the operator (TFLite, OpenVINO) or of its domain's opset (ONNX); 0 where there are no versions.
        count: how often it occurs.
        modules: where it comes from: modules of the student if that is told, else names of nodes.
        refused: runtime -> why it does not take this operator.
        replacement: what is usually written instead.
    """

    domain: str
    type: str
    version: int
    count: int
    modules: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    replacement: str = ""

    def to_json(self) -> OperatorDocument:
        """JSON form of `edgedistill operators`."""
        return {
            "domain": self.domain,
            "type": self.type,
            "version": self.version,
            "count": self.count,
            "modules": list(self.modules),
            "refused": dict(self.refused),
            "replacement": self.replacement,
        }


@dataclass(frozen=True)
class Inventory:
    """What a file is made of.

    Attributes:
        facts: versions of the format, as the file tells them.
        operators: in the order of their first occurrence.
        refused: runtime -> why it does not take the file whatever its operators are.
    """

    facts: Mapping[str, str]
    operators: tuple[Operator, ...]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def refusals(self) -> dict[str, str]:
        """Runtime -> why it must not be given this file: the file's own reason, else those of its operators."""
        told: dict[str, list[str]] = {}
        for operator in self.operators:
            for runtime, why in operator.refused.items():
                told.setdefault(runtime, []).append(_reason(operator, why))
        return {runtime: _first(reasons) for runtime, reasons in told.items()} | dict(self.refused)


def _reason(operator: Operator, why: str) -> str:
    places = ", ".join(operator.modules[:2]) + (", ..." if len(operator.modules) > 2 else "")  # enough to find it
    instead = f"; instead: {operator.replacement}" if operator.replacement else ""
    return f"{operator.type}{f' ({places})' if places else ''}: {why}{instead}"


def _first(reasons: list[str], most: int = 3) -> str:
    return "; ".join(reasons[:most]) + (f"; and {len(reasons) - most} more" if len(reasons) > most else "")


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulate operations of one inference at batch 1, and those on 8-bit integer tensors."""

    total: int
    integer: int

    @property
    def integer_share(self) -> float:
        """Share of MACs whose data and weights are both 8-bit integers, 0 to 1."""
        return self.integer / self.total if self.total else 0.0


@dataclass(frozen=True)
class Check:
    """One question of the gate, answered in words and in numbers."""

    id: str
    state: State
    reason: str
    value: float | None = None
    limit: float | None = None

    def to_json(self) -> CheckDocument:
        """JSON form of the contract."""
        return {
            "id": self.id,
            "state": self.state.value,
            "value": self.value,
            "limit": self.limit,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Verdict:
    """The gate's answer: the worst state of its checks."""

    checks: tuple[Check, ...]

    @property
    def state(self) -> State:
        """The worst state: fail, then invalid, then inconclusive; skipped checks do not count."""
        states = {check.state for check in self.checks}
        for state in (State.FAIL, State.INVALID, State.INCONCLUSIVE):
            if state in states:
                return state
        return State.PASS

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 inconclusive or invalid."""
        return {State.PASS: 0, State.FAIL: 1}.get(self.state, 3)


class Source(StrEnum):
    """What a figure is worth: taken on the device itself, computed in an emulator, or said by a model of the device."""

    MEASURED = "measured"
    EMULATED = "emulated"
    PREDICTED = "predicted"


@dataclass(frozen=True)
class Traits:
    """What a device plug-in's figures are and what it can do; every plug-in says so itself.

    Attributes:
        source: what its figures are. Only where they are measured is anything timed.
        computes: whether the agent runs there, so that there are outputs; benchmark programs alone tell only times.
        runtimes: those it has, where it has not all of this machine's; None: no such limit.
        own_openers: format -> the runtime file that opens its files there, in runtimes that no exporter names.
        references: runtimes of this machine that outputs of its own runtimes are compared with, the best first.
    """

    source: Source
    computes: bool = True
    runtimes: tuple[str, ...] | None = None
    own_openers: Mapping[str, Path] = field(default_factory=dict)
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceInfo:
    """Where an artifact ran: what a reader needs to repeat the measurement."""

    id: str
    name: str
    machine: str
    cores: int
    memory_bytes: int

    def to_json(self, source: Source) -> DeviceDocument:
        """JSON form of `edgedistill devices list`; `source`: what its figures are."""
        return {
            "id": self.id,
            "name": self.name,
            "class": self.machine,
            "status": source.value,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
        }


@dataclass(frozen=True)
class TracedTensor:
    """A tensor of a model's graph with its value for one sample, as the exporters' verb `tensors` gives them.

    Attributes:
        name: in the file.
        operator: what computes it, in the format's own word; `input` for an input.
        module: module of the student that it comes from, where the file tells; else empty.
        value: in float32; integers with a scale are dequantised.
        sources: positions of the tensors that it is computed from, in the same list.
        origin: its name before quantisation; empty where names do not outlive it.
        weighted: whether its operator has weights.
        output: name of the model's output that it is; empty for an inner one.
    """

    name: str
    operator: str
    module: str
    value: Array
    sources: tuple[int, ...] = ()
    origin: str = ""
    weighted: bool = False
    output: str = ""


@dataclass(frozen=True)
class Runtime:
    """A runtime of a format: the module to import, the distribution whose version counts, the file that opens it."""

    module: str
    distribution: str
    opener: Path


@dataclass(frozen=True)
class AgentCall:
    """One process of the agent: open `artifact` in `runtime`, and measure or compute.

    `opener` is the runtime file that has this runtime, `companions` hold the artifact's weights beside it.
    `inputs` is an `.npz` of model-ready arrays (first axis: samples); `outputs` names the `.npz` to
    write, one row a sample, or None. Latency is measured when `min_queries` is positive. `affinity` are
    the cores to run on (none: any), `profile` the inferences over which operators are timed (0: not),
    `sustained_min` the minutes of a stream without a pause. With `reference_kernels`, a TFLite runtime computes with
    its plain kernels instead of optimised ones and XNNPACK's.
    """

    artifact: Path
    runtime: str
    opener: Path
    companions: tuple[Path, ...] = ()
    threads: int = 1
    inputs: Path | None = None
    outputs: Path | None = None
    min_queries: int = 0
    min_duration_s: float = 0.0
    warmup_s: float = 0.1
    timeout_s: float = 600.0
    affinity: tuple[int, ...] = ()
    profile: int = 0
    sustained_min: float = 0.0
    reference_kernels: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The artifact, and those of its companions that are there."""
        return (self.artifact, *(file for file in self.companions if file.is_file()))


@dataclass(frozen=True)
class AgentAnswer:
    """The agent's document (schema `edgedistill.agent/1`) and the device it came from."""

    device: str
    document: Json


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
