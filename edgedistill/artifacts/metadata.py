"""What a file says of itself: inside, where its format has a place, and in a .json beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from edgedistill.contracts import KeepsMetadata
from edgedistill.errors import ArtifactError
from edgedistill.plugins import load_exporter, offers
from edgedistill.storage import write_atomically
from edgedistill.types import Artifact, Json, file_sha256

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "edgedistill.metadata/1"


@dataclass(frozen=True)
class Origin:
    """Where files come from, as far as the files themselves cannot tell.

    Attributes:
        licence: under which they are given away, an SPDX name; empty: not told.
        recipe: `sha256` of the recipe's `sections` that decide what is in the files; empty: made without a recipe.
    """

    licence: str = ""
    recipe: Json = field(default_factory=dict)


def embedded(artifact: Artifact, origin: Origin) -> Artifact:
    """Write an artifact's metadata into its file and beside it; the artifact as it is then.

    The same artifact and origin give the same bytes. A format without a place of its own (ncnn), or an exporter of a
    third party that keeps none, has the file beside it alone.
    """
    document = _document(artifact, origin)
    keeper = offers(load_exporter(artifact.format), KeepsMetadata)
    if keeper is not None:
        keeper.embed(artifact.path, document)
    written = replace(
        artifact,
        sha256=file_sha256(artifact.path),
        size_bytes=sum(file.stat().st_size for file in artifact.files),
        companions={name: file_sha256(artifact.path.parent / name) for name in artifact.companions},
        producer=artifact.producer | ({"recipe": origin.recipe} if origin.recipe else {}),
    )
    file = {"name": written.path.name, "sha256": written.sha256, "companions": written.companions}
    write_atomically(beside(written.path), json.dumps({**document, "file": file}, indent=1, ensure_ascii=False) + "\n")
    return written


def beside(path: Path) -> Path:
    """Where the metadata of a file stands outside it: NAME.onnx.json."""
    return path.with_name(f"{path.name}.json")


def inside(artifact: Artifact) -> Json | None:
    """What the file holds of our metadata; None: nothing, or its format has no place.

    Raises:
        ArtifactError: the file cannot be read, or its metadata is damaged.
    """
    keeper = offers(load_exporter(artifact.format), KeepsMetadata)
    try:
        return keeper.metadata(artifact.path) if keeper is not None else None
    except Exception as error:  # each library has errors of its own
        raise ArtifactError(
            f"the metadata of {artifact.path.name} cannot be read",
            where=str(artifact.path),
            expected=f"a valid {artifact.format} file, its metadata as JSON",
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}",
            fix="export it again; the file may be damaged",
        ) from error


def outside(path: Path) -> Json | None:
    """What the file beside an artifact says; None: there is none, or it is not about this very file."""
    try:
        document: Json = json.loads(beside(path).read_text(encoding="utf-8"))
        return document if document["file"]["sha256"] == file_sha256(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _document(artifact: Artifact, origin: Origin) -> Json:
    exporter = load_exporter(artifact.format)
    tools = {name: _version(name) for name in ("edgedistill", *exporter.TOOLS)}
    document: Json = {
        "schema": SCHEMA,
        "model": artifact.model,
        "format": artifact.format,
        "precision": artifact.precision.value,
        **artifact.signature.to_json(),
        "producer": {"tools": tools, **artifact.producer},
        "recipe": origin.recipe,
        "licence": origin.licence,
    }
    return {key: value for key, value in document.items() if value not in ("", {})}


def _version(distribution: str) -> Any:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
