"""Metadata inside ONNX files: `metadata_props`, a key each, `edgedistill.labels`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.storage import write_atomically

from .._shared.metadata import NAME, document, texts

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Json

_PREFIX = f"{NAME}."


def embed(path: Path, metadata: Json) -> None:
    """Write metadata into a file, in the place of what it held of ours."""
    import onnx

    model = onnx.load(str(path))
    foreign = [(entry.key, entry.value) for entry in model.metadata_props if not entry.key.startswith(_PREFIX)]
    del model.metadata_props[:]
    for key, value in [*foreign, *((_PREFIX + key, value) for key, value in texts(metadata).items())]:
        model.metadata_props.add(key=key, value=value)
    write_atomically(path, model.SerializeToString(deterministic=True))


def metadata(path: Path) -> Json | None:
    """What `embed` wrote; None: nothing of ours."""
    import onnx

    entries = onnx.load(str(path), load_external_data=False).metadata_props
    return document({e.key.removeprefix(_PREFIX): e.value for e in entries if e.key.startswith(_PREFIX)})
