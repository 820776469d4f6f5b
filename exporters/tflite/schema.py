"""TFLite's schema as objects, as far as it is used: what `flatbuffer.read` gives, whose generated code has no types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flatbuffers import Builder

    from edgedistill.types import Array


class Buffer(Protocol):
    """What a tensor or an entry of the metadata holds."""

    data: Array | None
    offset: int
    size: int
    Pack: Callable[[Builder], int]


class Quantization(Protocol):
    """Scales of an integer tensor."""

    scale: Array | None


class Tensor(Protocol):
    """A tensor; its name is UTF-8, its type a number of the schema's TensorType."""

    name: bytes
    shape: Sequence[int]
    type: int
    quantization: Quantization | None


class OperatorCode(Protocol):
    """A kind of operators; newer files have larger numbers in `builtinCode`."""

    builtinCode: int
    deprecatedBuiltinCode: int
    customCode: bytes | None
    version: int


class Operator(Protocol):
    """An operator; its inputs and outputs are numbers of tensors, -1 one that is left out."""

    opcodeIndex: int
    inputs: Sequence[int]
    outputs: Sequence[int]


class Graph(Protocol):
    """A graph, its operators in the order of execution."""

    tensors: list[Tensor]
    operators: list[Operator]
    inputs: Sequence[int]
    outputs: Sequence[int]


class Metadata(Protocol):
    """An entry of the metadata, its content being a buffer."""

    name: bytes
    buffer: int


class TensorMap(Protocol):
    """An input or output of a signature."""

    name: bytes
    tensorIndex: int


class SignatureDef(Protocol):
    """A signature."""

    inputs: list[TensorMap]


class Model(Protocol):
    """A file."""

    version: int
    description: bytes | None
    operatorCodes: list[OperatorCode]
    subgraphs: list[Graph]
    buffers: list[Buffer]
    metadata: list[Metadata] | None
    signatureDefs: list[SignatureDef]

    def Pack(self, builder: Builder) -> int:
        """Write it; where it begins."""
        ...
