"""What reports say of files: what they take and give, how good they are, how far they depart, how they were chosen."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict

Facts: TypeAlias = dict[str, object]
"""What plug-ins and runtimes tell in words of their own."""
Ends: TypeAlias = Annotated[list[float], Field(min_length=2, max_length=2)]
"""An interval: its lower and its upper end."""
Rounds: TypeAlias = Annotated[list[float], Field(min_length=1)]
"""A figure for each round of measuring, at least one."""
StateWord: TypeAlias = Literal["pass", "fail", "inconclusive", "invalid", "skipped"]
"""`edgedistill.types.State` as JSON has it."""


class TensorDocument(TypedDict):
    """A named input or output; a string in `shape` is an axis of any size."""

    name: str
    shape: list[int | str]
    dtype: str
    layout: str


class NormalizationDocument(TypedDict):
    """What an application does before the model, per channel; one value stands for all channels."""

    formula: str
    raw: str  # the unit of mean and std, in words
    mean: list[float]
    std: list[float]


class SignatureDocument(TypedDict):
    """What a model takes and gives; `labels` are the names of its classes."""

    inputs: list[TensorDocument]
    outputs: list[TensorDocument]
    normalization: NormalizationDocument
    labels: list[str]


class Quality(TypedDict):
    """A figure of merit over n evaluation samples, with its 95% interval."""

    metric: str
    value: float
    n: int
    ci95: Ends
    method: str  # of the interval
    runtime: NotRequired[str]  # of files alone


class Difference(TypedDict):
    """Quality less the teacher's on the same n samples, with its 95% interval."""

    difference: float
    ci95: Ends
    n: int
    method: str


class ParityDocument(TypedDict):
    """How far a file's outputs are from its reference's over n samples; null: infinite, or not defined."""

    reference: str
    runtime: str
    n: int
    max_abs: float | None
    max_relative: float | None  # over the reference's largest magnitude
    psnr_db: float | None
    cosine: float | None
    top1_agreement: float | None
    snr_db: float | None
    worst_sample: int  # from 0
    state: StateWord
    reason: str
    outputs: list[ParityDocument]  # each one's own, where a model has several
    output: str  # the one that speaks
    worst_sample_file: NotRequired[str]
    max_lsb: NotRequired[float]  # steps of a quantised output, of emulated devices


class _Candidate(TypedDict):
    """How a quantised file was tried, over n validation samples."""

    scheme: str
    placement: str  # schemes of one placement take the same time
    keep_float: list[str]  # layers
    metric: str
    quality_fp32: float
    n: int
    device: str | None  # where it was timed
    latency_ratio_to_fp32: float | None
    latency_ratio_rounds: list[float]
    state: str  # shipped, or why not


class MadeCandidate(_Candidate):
    """A file that could be made; `drop` is the quality that it loses against fp32."""

    quality: float
    drop: float
    size_bytes: int
    quality_calibrated: NotRequired[float | None]  # of the file that a trained one may replace


class RefusedCandidate(_Candidate):
    """One that a tool or a runtime refused: `state` says why."""

    quality: None
    drop: None
    size_bytes: None


Candidate: TypeAlias = MadeCandidate | RefusedCandidate


class ChoiceDocument(TypedDict):
    """The candidates of a quantised artifact, of which one is shipped."""

    artifact: str  # id
    met: bool  # within the margin of quality
    candidates: list[Candidate]
    notes: NotRequired[list[str]]
    untrained: NotRequired[str]  # why training with rounding is needed and not possible


class FileDocument(TypedDict):
    """A file with its companions; `path` is relative to the document's folder."""

    id: str
    model: str
    format: str
    precision: str
    path: str
    sha256: str
    size_bytes: int  # with companions
    companions: dict[str, str]  # file name -> sha256
    signature: SignatureDocument
    producer: Facts
    candidates: NotRequired[list[Candidate]]  # empty, or absent: not quantised
    within_margin: NotRequired[bool]  # of quality, where it is quantised


class ListedFile(FileDocument):
    """A file as stages list it for one another."""

    macs: int  # of one inference at batch 1
    integer_mac_share: float  # 0 to 1, on 8-bit integers
    unsupported: dict[str, str]  # runtime -> why it must not be given the file


class ProvenFile(FileDocument):
    """A file held against its model in every runtime that it is for."""

    parity: ParityDocument  # of the runtime that departs farthest
    parity_by_runtime: list[ParityDocument]
    not_for: dict[str, str]  # runtime -> why
    notes: list[str]


class ArtifactDocument(ProvenFile):
    """A file in a report: its work, and its quality by the runtime whose answer is worst and by each."""

    macs: int  # of one inference at batch 1
    integer_mac_share: float  # 0 to 1, on 8-bit integers
    quality: Quality
    quality_by_runtime: dict[str, Quality]
    versus_teacher: Difference
    versus_teacher_by_runtime: NotRequired[dict[str, Difference]]


class RuntimeAnswer(TypedDict):
    """What a runtime made of an artifact over the evaluation split."""

    artifact: str
    runtime: str
    parity: ParityDocument
    quality: Quality
    versus_teacher: Difference
