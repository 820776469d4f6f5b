"""ncnn files in other precisions than float32, all written from the float32 file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.errors import ModelError
from edgedistill.types import Array, Artifact, Precision, QuantizationScheme

from .file import Layer, Tensor, companions, read, write
from .integers import FORMS, quantizable, to_integers
from .ranges import SCHEMES, thresholds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PRECISIONS = (Precision.FP32, Precision.FP16, Precision.INT8_STATIC, Precision.INT8_WEIGHTS)
_CODES = 256
_WORTH = 512
"""Weights from which a table of 256 values pays for itself."""
_ROUNDS = 12


def schemes(precision: Precision) -> tuple[QuantizationScheme, ...]:
    """Ways to static int8, the default first: how far activations reach, and whether some layers stay float."""
    return SCHEMES if precision is Precision.INT8_STATIC else (QuantizationScheme(precision.short),)


def layers(artifact: Artifact) -> list[str]:
    """Layers with an integer form that `QuantizationScheme.keep_float` may name, in the order of the graph."""
    return [layer.name for layer in read(artifact.path) if quantizable(layer)]


def quantize(
    artifact: Artifact,
    precision: Precision,
    calibration: Mapping[str, Array],
    out: Path,
    scheme: QuantizationScheme | None = None,
) -> Artifact:
    """Write the float32 artifact in another precision.

    Weights in 8-bit integers are symmetric with a scale for each output channel (for each group or whole tensor where
    ncnn takes no more); weights alone are codes into a table of 256 values, which ncnn unpacks when it loads the file.

    Raises:
        ArtifactError: the artifact's files are damaged, or not float32.
        ModelError: it has no layer that the precision is for.
        DataError: calibration samples cannot give ranges.
    """
    chosen = scheme or schemes(precision)[0]
    base = read(artifact.path)
    if precision is Precision.INT8_STATIC:
        if not any(quantizable(layer) for layer in base):
            raise _nothing(artifact, base, precision)
        made = _static(artifact, base, calibration, chosen)
    else:
        largest = max((tensor.values.size for layer in base for tensor in layer.tensors if tensor.tagged), default=0)
        made = [_stored(layer, precision, min(_WORTH, largest)) for layer in base]
        if all(tensor.values.dtype == np.float32 for layer in made for tensor in layer.tensors):
            raise _nothing(artifact, base, precision)
    path = out / f"{artifact.model}-{precision.short}.ncnn.param"
    write(path, made)
    return Artifact.of_files(
        path,
        model=artifact.model,
        fmt="ncnn",
        precision=precision,
        signature=artifact.signature,
        companions=companions(path),
        producer={"parent": artifact.sha256, "scheme": chosen.name, "keep_float": list(chosen.keep_float)},
    )


def _static(
    artifact: Artifact, base: Sequence[Layer], calibration: Mapping[str, Array], chosen: QuantizationScheme
) -> list[Layer]:
    kinds = chosen.options.get("float", ())
    whole = {layer.name for layer in base if quantizable(layer) and layer.kind not in kinds} - set(chosen.keep_float)
    copied = {blob: layer.below[0] for layer in base if layer.kind == "Split" for blob in layer.above}
    inputs = {
        layer.name: copied.get(layer.below[0], layer.below[0])
        for layer in base
        if layer.name in whole and FORMS[layer.kind].calibrated
    }
    limits = thresholds(artifact, list(dict.fromkeys(inputs.values())), calibration, chosen)
    return [
        to_integers(layer, limits[inputs[layer.name]] if layer.name in inputs else 0.0)
        if layer.name in whole
        else layer
        for layer in base
    ]


def _stored(layer: Layer, precision: Precision, least: int) -> Layer:
    """With other weights; `least`: how many are worth a table, the most that there are if none has enough."""
    tensors = []
    for tensor in layer.tensors:
        if not tensor.tagged:
            tensors.append(tensor)
        elif precision is Precision.FP16:
            tensors.append(_half(tensor))
        else:
            tensors.append(_coded(tensor) if tensor.values.size >= least else tensor)
    return replace(layer, tensors=tuple(tensors))


def _half(tensor: Tensor) -> Tensor:
    """In half floats, unless a value is beyond their range."""
    if np.abs(tensor.values).max() > np.finfo(np.float16).max:
        return tensor
    return replace(tensor, values=tensor.values.astype(np.float16))


def _coded(tensor: Tensor) -> Tensor:
    """As codes of 8 bits into a table of the tensor's own."""
    table = codebook(tensor.values)
    return replace(tensor, values=codes(tensor.values, table), table=table)


def codebook(values: Array) -> Array:
    """256 values, sorted, that stand for all with a small squared error.

    They start as dense as the cube root of the values' density, which is best for many levels (Panter and Dite 1951),
    and are then moved to the means of what they stand for (Lloyd 1982).
    """
    flat = np.sort(values, axis=None).astype(np.float64)
    counts, edges = np.histogram(flat, bins=1024)
    reached = np.concatenate([[0.0], np.cumsum(np.cbrt(counts))])
    table = np.interp((np.arange(_CODES) + 0.5) / _CODES * reached[-1], reached, edges)
    sums = np.concatenate([[0.0], np.cumsum(flat)])
    for _ in range(_ROUNDS):
        bounds = np.concatenate([[0], np.searchsorted(flat, (table[1:] + table[:-1]) / 2), [flat.size]])
        members = np.diff(bounds)
        table = np.where(members > 0, np.diff(sums[bounds]) / np.maximum(members, 1), table)
    return np.sort(table).astype(np.float32)


def codes(values: Array, table: Array) -> Array:
    """The place in the table of what is nearest to each value."""
    nearest: Array = np.searchsorted((table[1:] + table[:-1]) / 2, values).astype(np.uint8)
    return nearest


def _nothing(artifact: Artifact, base: Sequence[Layer], precision: Precision) -> ModelError:
    kinds = ", ".join(sorted({layer.kind for layer in base}))
    return ModelError(
        f"{artifact.id} has no layer for {precision.short}",
        where=artifact.id,
        expected=", ".join(FORMS) if precision is Precision.INT8_STATIC else "layers with weights",
        got=kinds,
        fix=f"leave {precision.short} out of the precisions",
    )
