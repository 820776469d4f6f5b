"""What files in full integers share: ranges by ai-edge-quantizer, and the types of their ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgedistill.types import Artifact

from .._shared.signature import changed
from .flatbuffer import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ai_edge_quantizer.qtyping import QSV
    from ai_edge_quantizer.quantizer import Quantizer

    from edgedistill.types import Array, Json, Precision, TensorSpec


def ranges(
    path: Path, tool: Quantizer, samples: Iterable[dict[str, Array]], update: Callable[..., QSV]
) -> dict[str, QSV]:
    """`min` and `max` of each tensor over the samples, brought together by a function of the library's `qsv_utils`."""
    from ai_edge_quantizer import calibrator

    watched = calibrator.Calibrator(str(path), num_threads=1, qsv_update_func=update)
    watched.calibrate({"serving_default": samples}, tool._recipe_manager)  # noqa: SLF001 - no public way to the ranges
    found: dict[str, QSV] = watched.get_model_qsvs()
    return found


def signature_inputs(path: Path) -> list[str]:
    """Input names of the file's signature, in the order of its tensors."""
    (signature,) = read(path).signatureDefs
    return [tensor.name.decode() for tensor in sorted(signature.inputs, key=lambda t: t.tensorIndex)]


def described(path: Path, parent: Artifact, precision: Precision, made: Json, *, float_ends: bool) -> Artifact:
    """The file that was written; its ends are int8 unless they were left in float."""
    return Artifact.of_files(
        path,
        model=parent.model,
        fmt="tflite",
        precision=precision,
        signature=parent.signature if float_ends else changed(parent.signature, _int8, _int8),
        producer=made | ({"ends": "float32"} if float_ends else {}),
    )


def _int8(spec: TensorSpec) -> TensorSpec:
    """Float ends become int8; class numbers stay what they are."""
    return spec if spec.dtype.startswith("int") else replace(spec, dtype="int8")
