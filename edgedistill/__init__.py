"""EdgeDistill: distil, export, quantise, prove, measure and gate models for phones and IoT devices.

Importing this package imports neither torch nor a runtime; the names below are loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedistill.conversion.export import export
    from edgedistill.errors import EdgeDistillError
    from edgedistill.pipeline import Outcome, compress
    from edgedistill.recipe.document import Recipe, load_recipe

__all__ = ["EdgeDistillError", "Outcome", "Recipe", "compress", "export", "load_recipe"]

_HOMES = {
    "EdgeDistillError": "edgedistill.errors",
    "Outcome": "edgedistill.pipeline",
    "Recipe": "edgedistill.recipe.document",
    "compress": "edgedistill.pipeline",
    "export": "edgedistill.conversion.export",
    "load_recipe": "edgedistill.recipe.document",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgedistill' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
