"""What several stages' keys have in common."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from edgedistill.artifacts.metadata import Origin
from edgedistill.plugins import load_exporter
from edgedistill.recipe.document import files_recipe
from edgedistill.tools import versions

if TYPE_CHECKING:
    from edgedistill.stages.work import Work
    from edgedistill.types import Json


def model_keys(work: Work, *sections: str) -> Json:
    """What the recipe's models depend on: descriptions, code, weights."""
    from edgedistill.models.key import model_key

    specs = {"teacher": work.recipe.teacher, "student": work.recipe.student}
    return {section: model_key(specs[section], work.beside) for section in sections}


def training_tools() -> Json:
    """Versions of what trains."""
    return versions(["torch"])


def exporters_tools(work: Work) -> Json:
    """Versions of what writes each format."""
    return {fmt: versions(load_exporter(fmt).TOOLS) for fmt in work.recipe.export.formats}


def runtimes_tools(work: Work) -> Json:
    """Versions of what opens the files."""
    formats = work.recipe.export.formats
    return versions(sorted({name for fmt in formats for _, name in load_exporter(fmt).RUNTIMES.values()}))


def origin_key(work: Work, *, quantized: bool) -> Json:
    """What files say of where they come from."""
    return asdict(Origin(work.recipe.export.licence, files_recipe(work.recipe, quantized=quantized)))


def origin_of(work: Work) -> Origin:
    """Likewise, of a stage whose key has it under `origin`."""
    return Origin(**work.known["origin"])
