"""TFLite's schema as objects, as far as it is used: the libraries' generated code has no types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from flatbuffers import Builder

    from edgedistill.types import Array


class Buffer(Protocol):
    """What a tensor holds."""

    data: Array | None


class Tensor(Protocol):
    """A tensor; its name is UTF-8, its type a number of the schema's TensorType."""

    name: bytes | str
    shape: Sequence[int] | None
    shapeSignature: Sequence[int] | None
    type: int
    buffer: int


class OperatorCode(Protocol):
    """A kind of operators; newer files have larger numbers in `builtinCode`."""

    builtinCode: int
    deprecatedBuiltinCode: int


class Convolution(Protocol):
    """Options of a convolution."""

    strideH: int
    dilationHFactor: int
    dilationWFactor: int


class Operator(Protocol):
    """An operator; its inputs and outputs are numbers of tensors, -1 one that is left out."""

    opcodeIndex: int
    inputs: Sequence[int]
    outputs: Sequence[int]
    builtinOptions: object


class Graph(Protocol):
    """A graph, its operators in the order of execution."""

    tensors: list[Tensor]
    operators: list[Operator]
    inputs: Sequence[int]
    outputs: Sequence[int]


class Model(Protocol):
    """A file."""

    operatorCodes: list[OperatorCode]
    subgraphs: list[Graph]
    buffers: list[Buffer]

    def Pack(self, builder: Builder) -> int:
        """Write it; where it begins."""
        ...


class Scales(TypedDict):
    """Of an integer tensor; none of one in float."""

    scales: Array
    zero_points: Array


class Details(TypedDict):
    """What tflite-micro's interpreter tells of an input or output."""

    shape: Sequence[int]
    dtype: type[np.generic]
    quantization_parameters: Scales
