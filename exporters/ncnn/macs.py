"""MACs of an ncnn file: every weight is used once for each output position."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgedistill.types import MacCount

from .file import graph
from .integers import runs_on_integers
from .look_inside import blobs, opened, zeros

if TYPE_CHECKING:
    from edgedistill.types import Artifact

_CONVOLUTIONS = (
    "Convolution",
    "ConvolutionDepthWise",
    "Convolution1D",
    "ConvolutionDepthWise1D",
    "Convolution3D",
    "ConvolutionDepthWise3D",
)
_TRANSPOSED = ("Deconvolution", "DeconvolutionDepthWise", "Deconvolution1D", "Deconvolution3D")
_COUNTED = (*_CONVOLUTIONS, *_TRANSPOSED, "InnerProduct", "Gemm", "MatMul", "SDPA", "MultiHeadAttention")


def count(artifact: Artifact) -> MacCount:
    """Run the file once on zeros, reading the shapes of what its weighted layers take and give.

    Raises:
        ArtifactError: the file does not run.
    """
    layers = [layer for layer in graph(artifact.path) if layer.kind in _COUNTED]
    names = [blob for layer in layers for blob in (*layer.below, layer.above[0])]
    (found,) = blobs(artifact, opened(artifact), names, [zeros(artifact)])
    total = integer = 0
    for layer in layers:
        below, above = [found[blob].shape for blob in layer.below], found[layer.above[0]].shape
        macs = _macs(layer.kind, below, above, layer.settings)
        total += macs
        integer += macs if runs_on_integers(layer) else 0
    return MacCount(total, integer)


def _macs(kind: str, below: list[tuple[int, ...]], above: tuple[int, ...], settings: dict[str, str]) -> int:
    """Of one layer; below: shapes of its inputs, without a batch."""
    if kind in _CONVOLUTIONS:
        return int(settings["6"]) * math.prod(above[1:])
    if kind in _TRANSPOSED:
        return int(settings["6"]) * math.prod(below[0][1:])
    if kind == "InnerProduct":
        return int(settings["2"]) * math.prod(above) // int(settings["0"])
    if kind == "SDPA":  # queries by keys, weights by values
        return math.prod(below[0]) * below[1][-2] + math.prod(above) * below[1][-2]
    if kind == "MultiHeadAttention":
        return _attention(below, above, settings)
    depth = below[0][-2] if kind == "Gemm" and settings.get("2", "0") == "1" and below else below[0][-1] if below else 0
    return math.prod(above) * depth


def _attention(below: list[tuple[int, ...]], above: tuple[int, ...], settings: dict[str, str]) -> int:
    """The four projections, queries by keys, weights by values."""
    width, masked = int(settings["0"]), settings.get("5", "0") != "0"
    given = below[: len(below) - masked]
    queries, keys, values = given[0], given[min(1, len(given) - 1)], given[-1]
    projected = width * (math.prod(queries) + math.prod(keys) + math.prod(values) + math.prod(above))
    return projected + 2 * width * queries[-2] * keys[-2]
