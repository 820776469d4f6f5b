"""Files beside an ONNX file that hold its weights."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnx import GraphProto, TensorProto


def companions(path: Path) -> tuple[Path, ...]:
    """Those of the files that its tensors name that are there: `inventory` tells of others.

    Of a file that cannot be read, or without the library that reads it, none is known.
    """
    return tuple(file for file in _named_by(path) if file.is_relative_to(path.parent) and file.is_file())


def _named_by(path: Path) -> dict[Path, None]:
    with suppress(Exception):  # damaged files: opening them tells better
        import onnx

        graph = onnx.load(str(path), load_external_data=False).graph
        return dict.fromkeys(path.parent / name for tensor in _tensors(graph) for name in _locations(tensor))
    return {}


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _tensors(inner)


def _locations(tensor: TensorProto) -> list[str]:
    return [entry.value for entry in tensor.external_data if entry.key == "location"]
