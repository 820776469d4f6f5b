"""Small departures: null, which is infinite, is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgedistill.documents.answers import TracedRow
    from edgedistill.documents.artifacts import ParityDocument


def near(found: ParityDocument | TracedRow, most: float) -> bool:
    """Whether no value is farther from the reference's, over its largest magnitude."""
    return found["max_relative"] is not None and found["max_relative"] < most
