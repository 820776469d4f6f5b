"""Versions of what is installed here."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of distributions, of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
