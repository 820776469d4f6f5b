"""TFLite files as objects and back, weights inside the flatbuffer at multiples of 16 bytes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from flatbuffers import Builder

    from .schema import Buffer, Model

ALIGNMENT = 16
"""Bytes: the schema's `force_align` of buffers, which generated Python code does not keep."""


def read(path: Path) -> Model:
    """The file as a ModelT of the schema's object interface.

    Raises:
        Exception: of the flatbuffers library, when this is no TFLite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray(path.read_bytes())
    if content[4:8] != b"TFL3":
        raise ValueError(f"{path.name} is not a TFLite file: no TFL3 at byte 4")
    model = cast("Model", schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0)))
    for buffer in model.buffers:
        if buffer.offset > 1:  # it stands behind the flatbuffer, where converters put large files' weights
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def packed(model: Model) -> bytes:
    """The file of a ModelT."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    for buffer in model.buffers:
        buffer.Pack = partial(_pack_buffer, buffer)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _pack_buffer(buffer: Buffer, builder: Builder) -> int:
    """A Buffer whose data is aligned."""
    from ai_edge_litert import schema_py_generated as schema

    data = None
    if buffer.data is not None and len(buffer.data):
        content = np.asarray(buffer.data, np.uint8).tobytes()
        builder.StartVector(1, len(content), ALIGNMENT)
        builder.head -= len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        data = builder.EndVector()
    schema.BufferStart(builder)
    if data is not None:
        schema.BufferAddData(builder, data)
    end: int = schema.BufferEnd(builder)
    return end
