"""What is used of ncnn's Python library, a compiled module that type checkers cannot read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgedistill.types import Array


class Blob(Protocol):
    """A tensor without a batch."""

    def clone(self) -> Blob:
        """A copy that owns its memory."""
        ...

    def numpy(self) -> Array:
        """Its values, in its own memory."""
        ...

    def __array__(self) -> Array: ...


class Extractor(Protocol):
    """One inference."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None: ...

    def input(self, name: str, blob: Blob) -> int:
        """Zero where it was taken."""
        ...

    def extract(self, name: str, kind: int = 0) -> tuple[int, Blob]:
        """Zero and the blob; `kind` 1: without conversions."""
        ...

    def set_light_mode(self, light: bool) -> None:
        """Whether a blob is freed once it was read."""
        ...


class Options(Protocol):
    """How a network is run; each flag `use_...` besides."""

    num_threads: int
    lightmode: bool


class Network(Protocol):
    """A file that was read."""

    opt: Options

    def load_param(self, path: str) -> int:
        """Zero where it could be read."""
        ...

    def load_model(self, path: str) -> int:
        """Zero where it could be read."""
        ...

    def create_extractor(self) -> Extractor:
        """For one inference."""
        ...


class Ncnn(Protocol):
    """The module."""

    __version__: str
    Net: Callable[[], Network]
    Mat: Callable[[Array], Blob]

    def layer_to_index(self, kind: str) -> int:
        """Below zero: no such layer."""
        ...
