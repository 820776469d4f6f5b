"""Checkpoints of a training: written whole or not at all, read without unpickling."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

import torch

from edgedistill.storage import atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_DIGEST = hashlib.sha256().digest_size


def save_checkpoint(document: Mapping[str, object], path: Path) -> None:
    """Write tensors and plain values, after their digest, whole or not at all.

    By way of memory: where a stream fails, torch tells another error than that the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(document, content)
    with atomically(path) as temporary, temporary.open("wb") as stream:
        stream.write(hashlib.sha256(content.getbuffer()).digest())
        stream.write(content.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote; None if the file is damaged: the training then starts again."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return None
        document = torch.load(io.BytesIO(content[_DIGEST:]), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - a damaged file makes the reader raise anything
        return None
    return document if isinstance(document, dict) else None
