"""What an artifact costs on a device: measured, emulated or predicted. Times in milliseconds, memory in bytes."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict

from edgedistill.documents.artifacts import Ends, Facts, ParityDocument, Rounds, StateWord

Percentiles: TypeAlias = Annotated[list[float], Field(min_length=101, max_length=101)]
"""The 0th to the 100th."""


class InputDocument(TypedDict):
    """An input as the runtime takes it."""

    name: str
    shape: list[int]
    dtype: str


class Latency(TypedDict):
    """Of single inferences over all rounds, in milliseconds; `duration_s` is their sum."""

    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    mean: float
    std: float
    count: int
    duration_s: float


class LatencySummary(TypedDict):
    """As far as a runtime's own program tells it."""

    count: int
    mean: float
    min: NotRequired[float]
    p50: NotRequired[float]
    p90: NotRequired[float]
    p95: NotRequired[float]
    p99: NotRequired[float]
    max: NotRequired[float]
    std: NotRequired[float]
    duration_s: NotRequired[float]


class Memory(TypedDict):
    """Resident bytes of the process: Python and numpy, the runtime imported, the model loaded, the most ever."""

    baseline: int
    after_import: int
    after_load: int
    peak: int


class PeakMemory(TypedDict):
    """As far as a device tells it."""

    peak: int
    baseline: NotRequired[int]
    after_import: NotRequired[int]
    after_load: NotRequired[int]


class OperatorRow(TypedDict):
    """An operator's time in one inference: the median over rounds, the least, the share of all."""

    name: str
    type: str
    ms: float
    least_ms: float
    share: float


class Minute(TypedDict):
    """A minute of a stream without a pause."""

    count: int
    min: float
    p50: float
    p90: float
    p99: float


class Sustained(TypedDict):
    """Such a stream; `last_to_first` is the ratio of the p50 of its last minute to its first's."""

    minutes_ms: list[Minute]
    last_to_first: float


class Ratio(TypedDict):
    """Latency over that of another artifact in the same rounds; `p50` is the middle one."""

    reference: str
    p50: float
    rounds: Rounds


class ComparedRatio(Ratio):
    """The same, and whether the difference is more than noise: `p50` over single inferences, with 99% intervals.

    The fields that may be absent are those of several rounds.
    """

    runtime: str
    answer: Literal["faster", "same", "slower", "inconclusive"]
    needed_rounds: int | None  # that would decide it
    p90: NotRequired[float]
    p50_interval99: NotRequired[Ends]
    p90_interval99: NotRequired[Ends]
    compared_rounds: NotRequired[int]
    noise_floor: NotRequired[float]  # the reference against itself
    p_value: NotRequired[float]
    margin: NotRequired[float]  # a share of latency that counts for nothing


class _Timed(TypedDict):
    """What is known of every artifact that was timed."""

    artifact: str
    artifact_sha256: str
    device: str
    source: Literal["measured"]
    runtime: str
    runtime_version: str
    threads: int
    cores: list[int]  # that it ran on
    preset: str
    batch: int
    inputs: list[InputDocument]
    rounds: int
    facts: Facts  # what the runtime says is in force
    throughput_per_s: float
    p90_early_stopping_ms: float | None  # null: too few inferences
    valid: bool
    flags: list[str]
    runtime_p50_ms: NotRequired[float]  # by the runtime's own clock
    operators: NotRequired[list[OperatorRow] | None]
    operators_reason: NotRequired[str]  # why there are none
    sustained: NotRequired[Sustained]
    ratio_to_teacher: NotRequired[Ratio]
    ratio_to_reference: NotRequired[ComparedRatio]


class Measured(_Timed):
    """By the agent, which tells every single inference and each stage before the first one."""

    latency_ms: Latency
    round_p50_ms: Rounds
    percentiles_ms: Percentiles
    timeline_ms: list[list[float]]  # for each round, medians of stretches in the order of time
    import_ms: float
    load_cold_ms: float
    load_warm_ms: float
    first_inference_ms: float
    warmup_inferences: list[int]
    page_cache: str
    involuntary_switches: int
    memory_bytes: Memory


class Summarised(_Timed):
    """By a runtime's own program, as far as that tells."""

    latency_ms: LatencySummary
    round_p50_ms: NotRequired[Rounds]
    percentiles_ms: NotRequired[Percentiles]
    timeline_ms: NotRequired[list[list[float]]]
    import_ms: NotRequired[float]
    load_cold_ms: NotRequired[float]
    load_warm_ms: NotRequired[float]
    first_inference_ms: NotRequired[float]
    memory_bytes: NotRequired[PeakMemory]


class TimedRounds(TypedDict):
    """What of a measurement comparisons are made of."""

    artifact: str
    runtime: str
    device: str
    round_p50_ms: Rounds


class Pictured(TypedDict):
    """What of a measurement is drawn."""

    artifact: str
    runtime: str
    device: str
    latency_ms: Latency
    percentiles_ms: Percentiles
    timeline_ms: list[list[float]]
    operators: NotRequired[list[OperatorRow] | None]
    operators_reason: NotRequired[str]


class Runs(TypedDict):
    """Whether a device executes an artifact, and why not."""

    state: StateWord
    reason: str
    got: NotRequired[str]
    fix: NotRequired[str]


InstructionClass: TypeAlias = Literal["total", "load_store", "fma", "dot", "matrix", "multiply_long", "sve"]


class Instructions(TypedDict):
    """Of one inference, by class; `totals` are those of several, `spread` their quartiles' distance over the median."""

    total: int
    load_store: int
    fma: int
    dot: int
    matrix: int
    multiply_long: int
    sve: int
    spread: float


class InstructionsRatio(TypedDict):
    """Instructions over those of another artifact."""

    reference: str
    runtime: str
    ratio: float


class Emulated(TypedDict):
    """What an artifact does on a device that is emulated: no time. What may be absent is absent where it does not run.

    Of a microcontroller there is what it takes of SRAM (`arena_bytes` of `sram_bytes`) and flash (`flash_bytes` of
    `flash_size_bytes`) instead of instructions.
    """

    artifact: str
    artifact_sha256: str
    device: str
    source: Literal["emulated"]
    runtime: str
    threads: int
    runs: Runs
    valid: bool
    flags: list[str]
    runtime_version: NotRequired[str]
    batch: NotRequired[int]
    inputs: NotRequired[list[InputDocument]]
    facts: NotRequired[Facts]
    parity: NotRequired[ParityDocument]  # against this machine
    memory_bytes: NotRequired[PeakMemory]
    instructions: NotRequired[Instructions]
    instructions_to_reference: NotRequired[InstructionsRatio]
    kernels: NotRequired[dict[str, bool]]  # of which kind the core got some
    blocks: NotRequired[str]  # where the raw counts lie
    caches: NotRequired[Facts]
    reused: NotRequired[bool]  # from an earlier run
    arena_bytes: NotRequired[int]
    sram_bytes: NotRequired[int]
    flash_bytes: NotRequired[int]
    flash_size_bytes: NotRequired[int]
    model_bytes: NotRequired[int]
    fits: NotRequired[bool]
    reasons: NotRequired[list[str]]
    board_source: NotRequired[str]
    note: NotRequired[str]


class PredictedLatency(TypedDict):
    """A predicted median."""

    p50: float


LayerTime = TypedDict("LayerTime", {"name": str, "class": str, "ms": float})
"""A layer's share of a predicted latency; its operator class."""


class PredictedMemory(TypedDict):
    """Bytes by what takes them, and their sum; `mdape` is the model's median error, null: not known."""

    weights: int
    arena: int
    workspace: int
    runtime: int
    total: int
    mdape: float | None
    flags: list[str]


class MemoryBudget(TypedDict):
    """Whether it fits, null: not known; of a microcontroller SRAM and flash are told apart."""

    fits: bool | None
    limit_bytes: NotRequired[int]
    sram_bytes: NotRequired[int]
    sram_limit_bytes: NotRequired[int]
    flash_bytes: NotRequired[int]
    flash_limit_bytes: NotRequired[int]


class Prediction(TypedDict):
    """What an artifact would take on a device that is not here, with its 80% interval and what stands behind it."""

    artifact: str
    artifact_sha256: str
    device: str
    device_name: str
    source: Literal["predicted"]
    runtime: str
    threads: int
    affinity: str
    precision: str
    arithmetic: str  # `float` or `int8`
    predictor: str
    latency_ms: PredictedLatency
    interval80_ms: Ends
    calibration: str  # its standing: calibrated, few-shot, transferred, no evidence, spec-only
    mdape: float | None  # median error of held-out anchors
    anchors: int
    method: str  # by which that error was found
    parts_ms: dict[str, float]  # operator class or kind of instruction
    layers_ms: list[LayerTime]  # the costliest
    predicted_memory_bytes: PredictedMemory
    memory_budget: MemoryBudget
    flags: list[str]
    valid: bool
    meets_budget: NotRequired[bool]
    budget_reasons: NotRequired[list[str]]


class Refusal(TypedDict):
    """A simulated device that has nothing to say."""

    device: str
    reason: str
    fix: str


class ArtifactRefusal(TypedDict):
    """A simulated device that has nothing to say of an artifact."""

    artifact: str
    device: str
    reason: str


class HostMeasurement(TypedDict):
    """A file's milliseconds on this machine against what operator classes say, by which predictions are corrected."""

    runtime: str
    ms: float
    repeats_ms: list[float]
    expected_ms: float
    residual: float  # ms over expected
    references: dict[str, float]  # likewise, of networks with published timings


class Predictions(TypedDict):
    """Of a file on simulated devices, the fastest first."""

    predictions: list[Prediction]
    refused: list[Refusal]
    host: NotRequired[HostMeasurement]


class RecipePredictions(TypedDict):
    """Of every file of a recipe."""

    predictions: list[Prediction]
    refused: list[ArtifactRefusal]


Timed: TypeAlias = Measured | Summarised
Measurement: TypeAlias = Annotated[Measured | Emulated | Prediction, Field(discriminator="source")]
"""What reports hold."""
AnyMeasurement: TypeAlias = Measured | Summarised | Emulated | Prediction
"""What `edgedistill benchmark` tells."""
