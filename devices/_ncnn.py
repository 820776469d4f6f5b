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

    def __array__(self) -> Array: ...


class Extractor(Protocol):
    """One inference."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None: ...

    def input(self, name: str, blob: Blob) -> int:
        """Zero where it was taken."""
        ...

    def extract(self, name: str) -> tuple[int, Blob]:
        """Zero and the blob."""
        ...


class Pool(Protocol):
    """Memory that is used again."""

    def set_size_compare_ratio(self, ratio: float) -> None:
        """How much larger than asked for a piece may be."""
        ...


class Options(Protocol):
    """How a network is run; other flags `use_...` besides."""

    num_threads: int
    lightmode: bool
    use_vulkan_compute: bool
    blob_allocator: Pool
    workspace_allocator: Pool


class Network(Protocol):
    """A file that was read."""

    opt: Options

    def load_param(self, path: str) -> int:
        """Zero where it could be read."""
        ...

    def load_model(self, path: str) -> int:
        """Zero where it could be read."""
        ...

    def output_names(self) -> list[str]:
        """Blobs that no layer takes."""
        ...

    def create_extractor(self) -> Extractor:
        """For one inference."""
        ...


class Ncnn(Protocol):
    """The module."""

    Net: Callable[[], Network]
    Mat: Callable[[Array], Blob]
    PoolAllocator: Callable[[], Pool]
    UnlockedPoolAllocator: Callable[[], Pool]
