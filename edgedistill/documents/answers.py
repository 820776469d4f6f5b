"""What commands answer beside reports: operators, layers, devices, the first tensor that departs."""

from __future__ import annotations

from typing import Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

TensorState: TypeAlias = Literal["agrees", "departs", "absent"]


class OperatorDocument(TypedDict):
    """The operators of one kind in a file or a model."""

    domain: str
    type: str
    version: int  # 0: there are none
    count: int
    modules: list[str]
    refused: dict[str, str]  # runtime or format -> why
    replacement: str


class Taker(TypedDict):
    """A runtime or format, and whether it takes all of them."""

    name: str
    takes: bool
    reason: str


class OperatorsAnswer(TypedDict):
    """What `edgedistill operators` says."""

    model: str
    format: str
    facts: dict[str, str]
    takers: list[Taker]
    taken: bool  # by any runtime of a file; by every format that is asked for a model
    operators: list[OperatorDocument]


class LayerDocument(TypedDict):
    """A layer of a torch model; shapes are without the batch, null: no tensor."""

    name: str
    kind: str
    input_shape: list[int] | None
    output_shape: list[int] | None
    parameters: int
    calls: int


class LayersDocument(TypedDict):
    """A model's layers; `note` says why there are none."""

    model: str
    note: str
    layers: list[LayerDocument]


class TracedDocument(TypedDict):
    """A tensor of a graph; `module` is empty where the file does not tell it."""

    tensor: str
    operator: str
    module: str
    shape: list[int]


class TracedRow(TracedDocument):
    """A tensor of the reference beside its counterpart; null: none, or infinite."""

    state: TensorState
    artifact: TracedDocument | None
    snr_db: float | None
    max_relative: float | None


class FirstDeparture(TracedRow):
    """The first tensor that departs: the layer that did it, the way to it, what agrees before, and others alike."""

    layer: TracedDocument
    path: list[TracedDocument]
    preceded_by: list[TracedRow]
    also: list[TracedDocument]


class Way(TypedDict):
    """The worst sample's way through both graphs; `layers_absent` counts tensors without a counterpart."""

    layers: list[TracedRow]
    layers_absent: int
    first_departure: FirstDeparture | None


class NotedWay(Way):
    """And whether the file computes something else when its kernels are fused."""

    layers_note: str


class DepartureDocument(TypedDict):
    """How far a tensor is from its reference; null: infinite."""

    snr_db: float | None
    max_relative: float | None


DeviceDocument = TypedDict(
    "DeviceDocument", {"id": str, "name": str, "class": str, "status": str, "cores": int, "memory_bytes": int}
)
"""A device that is here, as `edgedistill devices list` has it."""


class BlockError(TypedDict):
    """What is known of a profile's error in a runtime; `mdape` is the median error of held-out anchors."""

    runtime: str
    threads: int
    affinity: str
    precision: str
    predictor: str
    status: str
    anchors: int
    mdape: float | None


SimulatedDevice = TypedDict(
    "SimulatedDevice",
    {
        "id": str,
        "name": str,
        "class": str,
        "status": str,
        "soc": str,
        "blocks": list[BlockError],
        "app_budget_mb": float | None,
    },
)
"""A simulated device in short."""


class CalibratedBoard(TypedDict):
    """A profile that was made of measured networks."""

    path: str
    status: str
    anchors: int
    mdape: float | None
    flags: list[str]
    networks: NotRequired[list[dict[str, object]]]
