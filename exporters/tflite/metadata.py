"""Metadata inside TFLite files: an entry `edgedistill` of `Model.metadata`, one JSON text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import numpy as np

from edgedistill.storage import write_atomically

from .._shared.metadata import NAME, text
from .flatbuffer import packed, read

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Json

    from .schema import Buffer, Metadata, Model


def embed(path: Path, metadata: Json) -> None:
    """Write metadata into a file, in the place of what it held of ours."""
    from ai_edge_litert import schema_py_generated as schema

    model = read(path)
    entry = _entry(model)
    if entry is None:
        entry = cast("Metadata", schema.MetadataT())
        entry.name, entry.buffer = NAME.encode(), len(model.buffers)
        model.buffers.append(cast("Buffer", schema.BufferT()))
        model.metadata = [*(model.metadata or []), entry]
    model.buffers[entry.buffer].data = np.frombuffer(text(metadata).encode(), np.uint8)
    write_atomically(path, packed(model))


def metadata(path: Path) -> Json | None:
    """What `embed` wrote; None: nothing of ours."""
    model = read(path)
    entry = _entry(model)
    data = model.buffers[entry.buffer].data if entry is not None else None
    found: Json | None = json.loads(bytes(data)) if data is not None else None
    return found


def _entry(model: Model) -> Metadata | None:
    return next((entry for entry in model.metadata or [] if entry.name == NAME.encode()), None)
