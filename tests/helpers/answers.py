"""What files give, for tests of files with one output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.artifacts.running import compute_all

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.artifacts.running import Subject
    from edgedistill.types import Array


def compute(subject: Subject, inputs: Path, outputs: Path) -> Array:
    """The one output for every sample of an .npz, (samples, ...)."""
    (only,) = compute_all(subject, inputs, outputs).values()
    return only
