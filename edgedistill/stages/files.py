"""What stages leave for each other: how their files are written and read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedistill.artifacts.metadata import embedded
from edgedistill.artifacts.running import refusals
from edgedistill.errors import ArtifactError
from edgedistill.plugins import load_exporter
from edgedistill.storage import read_json, write_json
from edgedistill.types import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgedistill.artifacts.metadata import Origin
    from edgedistill.data.splits import Data
    from edgedistill.documents.artifacts import ChoiceDocument, ListedFile
    from edgedistill.runs import Stage


@dataclass(frozen=True)
class Listed:
    """An artifact with what its stage found out about it.

    Attributes:
        artifact: its files.
        facts: its document.
    """

    artifact: Artifact
    facts: ListedFile


def load_data(stage: Stage) -> Data:
    """The splits of the data stage, on disk until they are used."""
    from edgedistill.data.splits import load

    return load(stage.path)


def write_artifacts(artifacts: Sequence[Artifact], out: Path, origin: Origin) -> None:
    """List the artifacts, after opening each as its runtime would: half a file goes no further.

    Before that each gets its metadata, inside and beside it.
    """
    documents: list[ListedFile] = []
    for bare in artifacts:
        artifact = embedded(bare, origin)
        known = refusals(artifact)
        _require_openable(artifact, known)
        macs = load_exporter(artifact.format).count_macs(artifact)
        documents.append(
            {
                **artifact.to_json(out),
                "macs": macs.total,
                "integer_mac_share": macs.integer_share,
                "unsupported": known,
            }
        )
    write_json(documents, out / "artifacts.json")


def _require_openable(artifact: Artifact, known: Mapping[str, str]) -> None:
    """Every runtime opens the file, but those that are known not to; if that is none, it is told as it is."""
    exporter = load_exporter(artifact.format)
    for check in exporter.check_support(artifact):
        runtime = check.id.rsplit(":", 1)[1]
        if check.state != "pass" and (runtime not in known or set(known) >= set(exporter.RUNTIMES)):
            raise ArtifactError(
                check.reason,
                where=str(artifact.path),
                expected=f"a file that its runtime opens ({check.id})",
                got=check.reason,
                fix="leave the format out of export.formats; --debug and RUN/logs show more",
            )


def read_listed(stage: Stage) -> list[Listed]:
    """What `write_artifacts` listed."""
    documents: list[ListedFile] = read_json(stage.path / "artifacts.json")
    return [Listed(Artifact.from_json(document, stage.path), document) for document in documents]


def read_artifacts(stage: Stage) -> list[Artifact]:
    """The artifacts that `write_artifacts` listed."""
    return [one.artifact for one in read_listed(stage)]


def all_listed(*stages: Stage) -> list[Listed]:
    """The teacher's and the student's, fp32 first; a later stage's file takes the place of one with the same id."""
    return list({one.artifact.id: one for stage in stages for one in read_listed(stage)}.values())


def all_artifacts(*stages: Stage) -> list[Artifact]:
    """Likewise, the files alone."""
    return [one.artifact for one in all_listed(*stages)]


def all_choices(*stages: Stage) -> list[ChoiceDocument]:
    """The candidates of every quantised artifact, a later stage's in the place of an earlier one's."""
    rows: list[ChoiceDocument] = [row for stage in stages for row in read_json(stage.path / "candidates.json")]
    return list({row["artifact"]: row for row in rows}.values())
