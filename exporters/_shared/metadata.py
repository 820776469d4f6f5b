"""Metadata as the formats hold it: a text for each key, JSON without a choice, so that it repeats by the byte."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.types import Json

NAME = "edgedistill"
"""Of the entry, or the prefix of the entries."""


def text(value: object) -> str:
    """One text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def texts(document: Json) -> dict[str, str]:
    """A text for each key, in the keys' order."""
    return {key: text(document[key]) for key in sorted(document)}


def document(found: Mapping[str, str]) -> Json | None:
    """What `texts` made texts of; None of nothing.

    Raises:
        ValueError: a text is no JSON.
    """
    return {key: json.loads(value) for key, value in found.items()} or None
