"""The two files of ncnn: layers from the .param, their tensors from the .bin, in the order in which layers load them.

A tensor of weights begins with a 32-bit tag that says how it is stored; other tensors are plain float32
(ncnn: docs/developer-guide/param-and-model-file-structure.md, src/modelbin.cpp).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.errors import ArtifactError

from .layout import layout
from .runtime import layers_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgedistill.types import Array

_TAGS = {"float32": 0, "float16": 0x01306B47, "int8": 0x000D4B38, "uint8": 1}
"""By the type of the stored values; any other tag but these stands before codes of a table, as 1 does here."""
_ALIGNED = 4


@dataclass(frozen=True)
class Tensor:
    """An array of a layer.

    Attributes:
        role: what the layer takes it for, as `layout` names it.
        values: as stored: float32; where tagged also float16, int8, or uint8 codes into `table`.
        tagged: whether a tag stands before it.
        table: 256 float32 that the codes stand for.
    """

    role: str
    values: Array
    tagged: bool
    table: Array | None = None


@dataclass(frozen=True)
class Layer:
    """A line of the .param file and what it loads."""

    kind: str
    name: str
    below: tuple[str, ...]
    above: tuple[str, ...]
    settings: dict[str, str]
    tensors: tuple[Tensor, ...] = ()


def companions(path: Path) -> tuple[Path, ...]:
    """The .bin that holds the weights of a .param."""
    return (path.with_suffix(".bin"),)


def read(path: Path) -> list[Layer]:
    """The layers of a float32 file with their tensors.

    Raises:
        ArtifactError: one of the two files is damaged, missing, not float32, or of another pair.
    """
    lines = graph(path)
    try:
        stored = path.with_suffix(".bin").read_bytes()
    except OSError as error:
        raise _unfit(path.with_suffix(".bin"), f"it cannot be read: {error.strerror}") from error
    layers, start = [], 0
    for layer in lines:
        tensors = []
        for role, shape, tagged in layout(layer.kind, layer.settings):
            end = start + 4 * (math.prod(shape) + tagged)
            if end > len(stored):
                raise _unfit(path.with_suffix(".bin"), f"it ends within the {role} of {layer.kind} {layer.name}")
            if tagged and stored[start : start + 4] != bytes(4):
                raise _unfit(path.with_suffix(".bin"), f"the {role} of {layer.kind} {layer.name} are not float32")
            values = np.frombuffer(stored[start + 4 * tagged : end], "<f4").reshape(shape)
            tensors.append(Tensor(role, values, tagged))
            start = end
        layers.append(Layer(layer.kind, layer.name, layer.below, layer.above, layer.settings, tuple(tensors)))
    if start != len(stored):
        raise _unfit(path.with_suffix(".bin"), f"it holds {len(stored)} bytes, the layers of {path.name} take {start}")
    return layers


def graph(path: Path) -> list[Layer]:
    """The layers without their tensors, of any precision.

    Raises:
        ArtifactError: the .param file is damaged or missing.
    """
    try:
        told = layers_of(str(path))
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()][2:]
        layers = [
            Layer(kind, line[1], tuple(below), tuple(above), settings)
            for line, (kind, below, above, settings) in zip(lines, told, strict=True)
        ]
        _consistent(layers)
    except OSError as error:
        raise _unfit(path, f"it cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, KeyError, ZeroDivisionError) as error:
        raise _unfit(path, f"it is no whole .param file: {error}") from error
    return layers


def _consistent(layers: Sequence[Layer]) -> None:
    made: set[str] = set()
    for layer in layers:
        layout(layer.kind, layer.settings)
        for blob in set(layer.below) - made:
            raise ValueError(f"no layer before {layer.kind} {layer.name} makes the blob {blob}")
        made.update(layer.above)


def _unfit(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"{path.name} cannot be used: {why}",
        where=str(path),
        expected="a .param file with the .bin it was written with, both float32",
        got=why,
        fix="export the model to ncnn again, and keep its two files together",
    )


def write(path: Path, layers: Sequence[Layer]) -> None:
    """The .param file and, beside it, the .bin."""
    blobs = {blob for layer in layers for blob in layer.above}
    lines = ["7767517", f"{len(layers)} {len(blobs)}"]
    for layer in layers:
        settings = [f"{key}={value}" for key, value in layer.settings.items()]
        counts = [str(len(layer.below)), str(len(layer.above))]
        lines.append(" ".join([layer.kind, layer.name, *counts, *layer.below, *layer.above, *settings]))
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    stored = b"".join(_stored(tensor) for layer in layers for tensor in layer.tensors)
    path.with_suffix(".bin").write_bytes(stored)


def _stored(tensor: Tensor) -> bytes:
    values = np.ascontiguousarray(tensor.values)
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    if not tensor.tagged:
        return data
    table = b"" if tensor.table is None else tensor.table.astype("<f4").tobytes()
    return _TAGS[values.dtype.name].to_bytes(4, "little") + table + data + bytes(-len(data) % _ALIGNED)
