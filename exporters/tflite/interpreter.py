"""What is used of the interpreters of tflite-runtime and LiteRT, which have no types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from edgedistill.types import Array


class Scales(TypedDict):
    """Of an integer tensor; none of one in float."""

    scales: Array


class Details(TypedDict):
    """A tensor; `shape_signature` has -1 for an axis without a size."""

    name: str
    index: int
    shape: Array
    shape_signature: Array
    dtype: type[np.generic]
    quantization: tuple[float, int]
    quantization_parameters: Scales


class Step(TypedDict):
    """An operator as it is executed; its inputs and outputs are indices of tensors, -1 one that is left out."""

    op_name: str
    inputs: Sequence[int]
    outputs: Sequence[int]


class Interpreter(Protocol):
    """A file that was opened."""

    def allocate_tensors(self) -> None:
        """Make ready to run."""
        ...

    def invoke(self) -> None:
        """Run once."""
        ...

    def get_input_details(self) -> list[Details]:
        """In the file's order."""
        ...

    def get_output_details(self) -> list[Details]:
        """In the file's order."""
        ...

    def get_tensor_details(self) -> list[Details]:
        """Of all tensors."""
        ...

    def get_tensor(self, index: int) -> Array:
        """A copy; a ValueError where nothing computes it."""
        ...

    def set_tensor(self, index: int, value: Array) -> None:
        """Of an input."""
        ...

    def resize_tensor_input(self, index: int, shape: Sequence[int]) -> None:
        """Of an input."""
        ...

    def get_signature_runner(self, key: str) -> Callable[..., dict[str, Array]]:
        """Runs once, inputs by name."""
        ...

    def _get_ops_details(self) -> list[Step]: ...
