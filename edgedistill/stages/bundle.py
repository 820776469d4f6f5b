"""The release. One that failed its gate is written too, marked `release: false`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.types import Json

NAME = "bundle"
READS = ("export.fold",)
SEES: tuple[str, ...] = ()
USES: tuple[Shelf, ...] = ("exporters",)


def check(work: Work) -> None:
    """Nothing can be known before there are files."""
    del work


def key(work: Work) -> Json:
    """Nothing besides: it copies."""
    del work
    return {}


def make(
    work: Work,
    data: Stage,
    distilled: Stage,
    exported: Stage,
    quantized: Stage,
    requantized: Stage,
    gated: Stage,
    *,
    out: Path,
) -> None:
    """The student's files, with examples and a script for each format."""
    from edgedistill.models.folding import given_by
    from edgedistill.release.bundle import EXAMPLES, write
    from edgedistill.stages.files import all_artifacts, load_data
    from edgedistill.stages.models import STUDENT, kept_logits
    from edgedistill.stages.samples import fed
    from edgedistill.storage import read_json

    splits = load_data(data)
    artifacts = [one for one in all_artifacts(exported, quantized, requantized) if one.model == STUDENT]
    write(
        artifacts,
        read_json(gated.path / "report.json"),
        artifacts[0].signature.normalization,
        fed(work, splits, splits.eval_inputs[:EXAMPLES]),
        given_by(work.recipe.export.fold, kept_logits(distilled, STUDENT)[:EXAMPLES]),
        out,
    )
