"""A model to files: fp32 of a format, and quantised copies of it. One way, with a recipe and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.contracts import TrainsRanges
from edgedistill.conversion.candidates import choose
from edgedistill.models.reference import model_bytes
from edgedistill.plugins import load_exporter, offers
from edgedistill.storage import require_space
from edgedistill.types import Precision

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.conversion.candidates import CandidateSamples, Choice
    from edgedistill.events import Events
    from edgedistill.models.reference import Reference
    from edgedistill.recipe.benchmark import Benchmark
    from edgedistill.recipe.export import Quantize
    from edgedistill.types import Artifact

_COPIES = 4
"""What a converter writes on its way, in sizes of the model: the file, scratch copies."""
_MARGIN_BYTES = 2**20
"""And besides the weights: graph, log."""


def write_fp32(reference: Reference, fmt: str, folder: Path, opset: int | None = None) -> Artifact:
    """A model as a file of a format.

    Raises:
        StorageError: there is no room for it.
        ModelError: the converter refuses the model.
    """
    require_room(folder, model_bytes(reference))
    examples = reference.inputs or None
    return load_exporter(fmt).export(reference.model, reference.name, reference.signature, folder, examples, opset)


def write_quantized(
    base: Artifact,
    precision: Precision,
    samples: CandidateSamples,
    settings: Quantize,
    benchmark: Benchmark,
    folder: Path,
    events: Events,
) -> Choice:
    """The best candidate of a precision, made of an fp32 file; raises as `candidates.choose`, and for want of room."""
    require_room(folder, base.size_bytes)
    return choose(base, precision, samples, settings, benchmark, folder, events)


def require_room(folder: Path, size_bytes: int) -> None:
    """Make the folder, on a disk that has room for what a converter writes of a model of this size.

    Raises:
        StorageError: there is less.
    """
    folder.mkdir(parents=True, exist_ok=True)
    require_space(folder, _COPIES * size_bytes + _MARGIN_BYTES)


def writable(fmt: str) -> tuple[Precision, ...]:
    """What a recipe may ask of a format: what its exporter writes, and int8-qat where it takes trained ranges."""
    own = load_exporter(fmt).PRECISIONS
    return (*own, Precision.INT8_QAT) if takes_ranges(fmt) else own


def takes_ranges(fmt: str) -> bool:
    """Whether a format's exporter takes ranges that were trained."""
    return offers(load_exporter(fmt), TrainsRanges) is not None
