"""What a stage is, and what it is handed.

A stage is a module. It writes its files into the folder it is given, of what it is handed and nothing else: the earlier
stages, the keys of the recipe that it names, and what its `key` returned. All of that is in the key of its files, so
that a stage cannot read what its key does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from edgedistill.recipe.section import document_of, part_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.events import Events
    from edgedistill.recipe.document import Recipe
    from edgedistill.types import Json


@dataclass(frozen=True)
class Work:
    """What a stage is handed beside the earlier stages.

    Attributes:
        recipe: for `make`, only the keys that the stage names are there; to read another is an AttributeError.
        beside: the recipe's folder: its relative paths and import paths start there.
        root: the run directory.
        events: where progress goes.
        known: what the stage's `key` returned.
    """

    recipe: Recipe
    beside: Path
    root: Path
    events: Events
    known: Json

    def handed_to(self, stage: StageModule, known: Json) -> Work:
        """The same work as a stage may see it."""
        return replace(self, recipe=part_of(self.recipe, (*stage.READS, *stage.SEES)), known=known)

    def read_by(self, stage: StageModule) -> Json:
        """The keys of the recipe that decide what a stage writes, with their values."""
        return document_of(self.recipe, stage.READS)


class StageModule(Protocol):
    """A module of this folder.

    Attributes:
        NAME: of the stage.
        READS: keys of the recipe (dotted; `*`: all) that decide what it writes: they are in its key.
        SEES: keys that it is handed too, for which `key` or an earlier stage's digest stands, or which can only make it
            refuse.
        USES: shelves whose plug-ins it calls, those of the recipe: their code is in its key.
        check: refuse now what would fail in an hour.
        key: what else decides what it writes: digests of files, versions of tools.
        make: `make(work, *earlier, out, **given)` writes the files into the folder `out`.
    """

    __name__: str

    @property
    def __file__(self) -> str | None:
        """Of the module."""
        ...

    @property
    def NAME(self) -> str:  # noqa: N802 - a module's constant
        """Of the stage."""
        ...

    @property
    def READS(self) -> tuple[str, ...]:  # noqa: N802 - a module's constant
        """Keys of the recipe that decide what it writes."""
        ...

    @property
    def SEES(self) -> tuple[str, ...]:  # noqa: N802 - likewise
        """Keys that it is handed too."""
        ...

    @property
    def USES(self) -> tuple[Shelf, ...]:  # noqa: N802 - likewise
        """Shelves whose plug-ins it calls."""
        ...

    @property
    def make(self) -> Callable[..., None]:
        """Writes its files."""
        ...

    def check(self, work: Work) -> None:
        """Refuse now what would fail in an hour.

        Raises:
            EdgeDistillError: of the kind that `make` would have met.
        """
        ...

    def key(self, work: Work) -> dict[str, Any]:
        """What else decides what the stage writes, as JSON; raises as `check`."""
        ...
