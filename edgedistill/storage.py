"""Disks: whole files or none, room enough, and what a full or unwritable one is told as."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgedistill.errors import EdgeDistillError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK_BYTES = 4096


@contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """Tell any failure that a full or read-only disk caused as such, whoever raised it.

    Libraries written in C++ raise their own errors, or none, when a write fails; so an error on a disk
    without free space is taken for what it is.
    """
    try:
        yield
    except EdgeDistillError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or is_full(root)
        ours = error.filename is None or str(error.filename).startswith(str(root))
        if not full and not (ours and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)):
            raise
        raise storage_error(root, full=full, error=error) from error
    except Exception as error:
        if os.strerror(errno.ENOSPC) not in str(error) and not is_full(root):
            raise
        raise storage_error(root, full=True, error=error) from error


def storage_error(root: Path, *, full: bool, error: Exception) -> StorageError:
    """What a full, or else unwritable, disk is told as."""
    if full:
        return StorageError(
            "the disk is full; what was unfinished is discarded, finished stages are kept",
            where=str(root),
            expected="free space for the stage's files",
            got=str(error),
            fix="free some space, or give a directory on another disk with --run; the same command goes on from here",
        )
    return StorageError(
        "the run directory cannot be written",
        where=str(getattr(error, "filename", None) or root),
        expected="a directory that this user may write to",
        got=str(error),
        fix="give another directory with --run, or change its permissions",
    )


def require_space(folder: Path, size_bytes: int) -> None:
    """Refuse to start what would fill the disk: some converters end the whole process when a write fails.

    Raises:
        StorageError: less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise storage_error(folder, full=True, error=OSError(f"{free} bytes free, about {size_bytes} needed"))


def is_full(root: Path) -> bool:
    """Whether less than one block is free."""
    try:
        return shutil.disk_usage(root).free < _BLOCK_BYTES
    except OSError:
        return False


@contextmanager
def atomically(path: Path, *, contended: bool = False) -> Iterator[Path]:
    """A temporary name to write to: what is closed under it is flushed to disk, and then gets the name `path`.

    Args:
        path: replaced as a whole, or left as it is where the writing fails.
        contended: other processes may write the same file at the same time. A name of its own is then left behind by a
            kill; otherwise the next write takes the old one again.
    """
    own = f".{secrets.token_hex(8)}" if contended else ""
    temporary = path.with_name(f".{path.name}{own}.part")
    yield temporary
    fsync(temporary)
    temporary.replace(path)


def write_atomically(path: Path, content: str | bytes, *, contended: bool = False) -> None:
    """The same for content that is at hand; see `atomically`."""
    with atomically(path, contended=contended) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def fsync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(document: Any, path: Path) -> None:
    """Plain JSON: NaN and infinity are refused."""
    path.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
