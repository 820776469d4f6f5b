"""The splits, checked and normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.stages.work import Work
    from edgedistill.types import Json

NAME = "data"
READS = ("seed",)
SEES = ("data",)
USES: tuple[Shelf, ...] = ()
_READERS = {"digits": ["scikit-learn"], "image_folder": ["pillow"]}


def check(work: Work) -> None:
    """A source that is not there is told by `key`."""
    del work


def key(work: Work) -> Json:
    """The section, the digests of its files, and the version of what reads them."""
    from edgedistill.data.sources import source_key
    from edgedistill.tools import versions

    source = work.recipe.data
    return {"source": source_key(source, work.beside), "tools": versions(_READERS.get(source.source, []))}


def make(work: Work, *, out: Path) -> None:
    """Read, split, normalise."""
    from edgedistill.data.sources import load_source, load_unlabelled
    from edgedistill.data.splits import prepare, save

    source = work.recipe.data
    raw, more = load_source(source, work.beside), load_unlabelled(source, work.beside)
    save(prepare(raw, source.normalize, source.evaluation_fraction, work.recipe.seed, more), out)
