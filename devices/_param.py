"""ncnn's .param files: the layers, and what the Input layers tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_SIZES = ("2", "11", "1", "0")
"""Keys of an Input layer: channels, depth, height, width."""


@dataclass(frozen=True)
class Layer:
    """A line of the file: what it computes, blobs in, blobs out, parameters."""

    kind: str
    name: str
    below: tuple[str, ...]
    above: tuple[str, ...]
    settings: dict[str, str]


def layers_of(path: Path) -> list[Layer]:
    """The layers, in the file's order.

    Raises:
        ValueError: it is no .param file, or cut off.
    """
    lines = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    if not lines[2:] or lines[0] != ["7767517"] or len(lines) != 2 + int(lines[1][0]):
        raise ValueError(f"{path} is no whole ncnn .param file")
    return [_layer(words) for words in lines[2:]]


def _layer(words: list[str]) -> Layer:
    kind, name, below, above, *rest = words
    start, end = int(below), int(below) + int(above)
    settings = dict(word.split("=", 1) for word in rest[end:])
    return Layer(kind, name, tuple(rest[:start]), tuple(rest[start:end]), settings)


def input_shapes(layers: Iterable[Layer]) -> dict[str, tuple[int, ...] | None]:
    """Input blob -> its shape, the outermost axis first, without a batch; None where the file does not tell it."""
    inputs = [layer for layer in layers if layer.kind == "Input"]
    return {layer.above[0]: _shape(layer.settings) for layer in inputs}


def _shape(settings: dict[str, str]) -> tuple[int, ...] | None:
    return tuple(int(settings[key]) for key in _SIZES if int(settings.get(key, "0")) > 0) or None
