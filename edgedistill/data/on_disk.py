"""Samples that stay on disk and are read row by row: memory does not grow with their number."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from numpy.typing import DTypeLike

    from edgedistill.types import Array

    Key = int | slice | Array

_CHUNK = 64
_LOCAL_HEADER = 30
"""Bytes of a zip member's header before its name; the lengths of name and extra field are its last two numbers."""


@dataclass(frozen=True, eq=False)
class StreamedRows:
    """An array whose rows are read from a file when they are asked for; numpy takes it for an array.

    Attributes:
        path: of the file; rows lie in C order.
        offset: of the first row in it, bytes.
        sample_shape: of a row.
        dtype: of an element.
        rows: which rows of the file, in this order.
        keeper: what must live as long: a temporary file is gone with the array that it was made for.
    """

    path: Path
    offset: int
    sample_shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    rows: Array
    keeper: object = None

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array: rows first."""
        return (len(self.rows), *self.sample_shape)

    @property
    def ndim(self) -> int:
        """Axes, the rows' among them."""
        return 1 + len(self.sample_shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> Array:
        chosen = self.rows[key]
        if np.ndim(chosen) == 0:
            row: Array = self._read(np.asarray([chosen]))[0]
            return row
        return self._read(chosen)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        whole: Array = self._read(self.rows).astype(dtype or self.dtype, copy=bool(copy))
        return whole

    def only(self, key: Key) -> StreamedRows:
        """Some of the rows, still on disk."""
        return replace(self, rows=self.rows[key], keeper=self)

    def _read(self, rows: Array) -> Array:
        found = np.empty((len(rows), *self.sample_shape), self.dtype)
        size = found[:1].nbytes
        with self.path.open("rb") as stream:
            for place, row in enumerate(rows):
                content = os.pread(stream.fileno(), size, self.offset + int(row) * size)
                found[place] = np.frombuffer(content, self.dtype).reshape(self.sample_shape)
        return found


def some(array: Array, key: Key) -> Array:
    """Some rows of an array, where it lies."""
    chosen: Array = cast("Array", array.only(key)) if isinstance(array, StreamedRows) else array[key]
    return chosen


def of_mapped(mapped: Array, rows: Array) -> Array:
    """Some rows of an array that numpy mapped from a file; of any other array, those rows."""
    if not isinstance(mapped, np.memmap) or mapped.filename is None:
        return np.asarray(mapped[rows])
    streamed = StreamedRows(Path(mapped.filename), mapped.offset, mapped.shape[1:], mapped.dtype, rows)
    return cast("Array", streamed)


def open_npz(path: Path) -> dict[str, Array]:
    """The arrays of an .npz, their rows on disk. Compressed ones are unpacked once into a temporary folder.

    Raises:
        ValueError: an array is damaged, or holds Python objects, which are never unpickled.
        OSError, zipfile.BadZipFile: the file is missing, or no archive.
    """
    found = {}
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} in it is damaged: its checksum is another")
        for member in archive.infolist():
            plain = member.compress_type == zipfile.ZIP_STORED
            file = path if plain else _unpacked(archive, member)
            start = _start(path, member) if plain else 0
            streamed = _array(file, start)
            if file is not path:
                weakref.finalize(streamed, shutil.rmtree, file.parent, ignore_errors=True)
            found[member.filename.removesuffix(".npy")] = cast("Array", streamed)
    return found


def save_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz as `numpy.savez` does, some rows at a time."""
    form: ModuleType = np.lib.format  # partly without annotations
    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                header = {
                    "descr": form.dtype_to_descr(rows.dtype),
                    "fortran_order": False,
                    "shape": rows.shape,
                }
                form.write_array_header_1_0(stream, header)
                for start in range(0, len(rows), _CHUNK):
                    stream.write(np.ascontiguousarray(rows[start : start + _CHUNK]).tobytes())


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Path:
    target = Path(tempfile.mkdtemp(prefix="edgedistill-")) / "array.npy"
    with archive.open(member) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out)
    return target


def _start(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a stored member's content begins in the archive."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset + _LOCAL_HEADER - 4)
        name, extra = np.frombuffer(stream.read(4), "<u2")
    return member.header_offset + _LOCAL_HEADER + int(name) + int(extra)


def _array(path: Path, start: int) -> Array | StreamedRows:
    """The array whose .npy content begins there; one of no axes, or in Fortran's order, is read whole."""
    with path.open("rb") as stream:
        stream.seek(start)
        form: ModuleType = np.lib.format  # partly without annotations
        version = form.read_magic(stream)
        read = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError("an array holds Python objects, which are never unpickled")
        if fortran or not shape:
            stream.seek(start)
            whole: Array = form.read_array(stream, allow_pickle=False)
            return whole
        return StreamedRows(path, stream.tell(), shape[1:], dtype, np.arange(shape[0]))
