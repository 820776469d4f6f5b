"""report.json, export.json, and what is made of them: the gate's verdict, what to ship, a bundle's metadata."""

from __future__ import annotations

from typing import Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from edgedistill.documents.artifacts import (
    ArtifactDocument,
    NormalizationDocument,
    ProvenFile,
    Quality,
    StateWord,
    TensorDocument,
)
from edgedistill.documents.measurements import AnyMeasurement, ArtifactRefusal, Measured, Measurement, Summarised

REPORT_SCHEMA: Literal["edgedistill.report/1"] = "edgedistill.report/1"
EXPORT_SCHEMA: Literal["edgedistill.export/1"] = "edgedistill.export/1"
BUNDLE_SCHEMA: Literal["edgedistill.bundle/1"] = "edgedistill.bundle/1"
Role: TypeAlias = Literal["teacher", "student", "baseline"]


class Environment(TypedDict):
    """Where and with what a report is made, as far as that does not change from minute to minute."""

    edgedistill: str
    python: str
    os: str
    cpu: str
    cores: int
    memory_bytes: int
    packages: dict[str, str]  # distribution -> version


class ReportEnvironment(Environment):
    """And what does."""

    load_average_1min: float


class Task(TypedDict):
    """What the models are for, and by what they are judged."""

    kind: str
    metric: str
    higher_is_better: bool
    eval_samples: int


class Seeds(TypedDict):
    """Quality of a student that was trained from several seeds."""

    n: int
    values: list[float]
    mean: float
    std: float


class ModelDocument(TypedDict):
    """A torch model; null: a black box does not tell."""

    id: str
    role: Role
    parameters: int | None
    macs: int | None  # of one inference at batch 1
    quality: Quality
    seeds: NotRequired[Seeds]


class Recommendation(TypedDict):
    """Which file to ship for a runtime on a device."""

    runtime: str
    device: str
    artifact: str
    why: str


class CheckDocument(TypedDict):
    """One question of the gate; null: it is not about a number."""

    id: str
    state: StateWord
    value: float | None
    limit: float | None
    reason: str


class GateDocument(TypedDict):
    """The gate's answer."""

    verdict: StateWord
    policy_sha256: str
    checks: list[CheckDocument]


class Report(TypedDict):
    """What a recipe came to; `gate` is null before it is judged."""

    schema: Literal["edgedistill.report/1"]
    name: str
    created: str  # RFC 3339
    recipe_sha256: str
    seed: int
    environment: ReportEnvironment
    task: Task
    models: list[ModelDocument]
    artifacts: list[ArtifactDocument]
    measurements: list[Measurement]
    refused: NotRequired[list[ArtifactRefusal]]
    recommendations: NotRequired[list[Recommendation]]
    gate: GateDocument | None


class ExportDocument(TypedDict):
    """What a model without a recipe came to; what may be absent is of precisions beside fp32."""

    schema: Literal["edgedistill.export/1"]
    name: str
    artifacts: list[ProvenFile]
    measurements: NotRequired[list[Measured | Summarised]]
    recommendations: NotRequired[list[Recommendation]]


class BenchmarkAnswer(TypedDict):
    """What `edgedistill benchmark --json` says."""

    measurements: list[AnyMeasurement]


class BundledFile(TypedDict):
    """A file of a release; `path` is relative to the bundle."""

    path: str
    sha256: str


class BundledFiles(TypedDict):
    """The files of a released artifact."""

    files: list[BundledFile]


class BundledArtifact(BundledFiles):
    """What the release says of an artifact."""

    id: str
    format: str
    precision: str
    size_bytes: int
    inputs: list[TensorDocument]
    outputs: list[TensorDocument]
    runtimes_checked: dict[str, str]  # runtime -> version
    quality: Quality
    parity: str  # in words
    integer_mac_share: float


class BundleVerdict(TypedDict):
    """Whether it may be released."""

    verdict: str


class BundleGate(BundleVerdict):
    """And by which policy."""

    policy_sha256: str


class BundleExamples(TypedDict):
    """Files of raw samples, and of the student's logits for them."""

    inputs: str
    logits: str


class Verifiable(TypedDict):
    """What of a bundle's metadata its check rests on."""

    artifacts: list[BundledFiles]
    gate: BundleVerdict


class BundleMetadata(TypedDict):
    """metadata.yaml of a release."""

    schema: Literal["edgedistill.bundle/1"]
    name: str
    created: str
    recipe_sha256: str
    licence: str
    task: str
    labels: list[str]
    normalization: NormalizationDocument
    gate: BundleGate
    release: bool  # whether the gate passed
    examples: BundleExamples
    artifacts: list[BundledArtifact]
    tool_versions: dict[str, str]


class VerifiedBundle(TypedDict):
    """An intact bundle: its files with their digests."""

    bundle: str
    files: dict[str, str]
    gate: str
