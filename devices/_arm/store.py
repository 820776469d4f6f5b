"""Runs that were made once: kept with what they depend on, since a count does not change."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import edgedistill.agent
from edgedistill.types import file_sha256

from .counts import Blocks
from .guest import INFERENCES, GuestRun

if TYPE_CHECKING:
    from edgedistill.types import AgentCall

    from .cores import Target
    from .layout import Layout


def key_of(layout: Layout, target: Target, job: AgentCall) -> str:
    """Digest of all that a run depends on: files, inputs, runtime (its version is pinned), core, agent, plug-in."""
    files = [job.artifact, *job.companions, job.inputs, Path(edgedistill.agent.__file__), job.opener]
    parts = [layout.digest, target.scheme, target.core.name, target.caches, job.runtime, INFERENCES]
    digests = [file_sha256(f) if f is not None and f.is_file() else None for f in files]
    return hashlib.sha256(json.dumps([*parts, *digests]).encode()).hexdigest()[:32]


def recall(folder: Path, outputs: Path) -> GuestRun | None:
    """A kept run; its outputs go to `outputs`. None when there is none that can be read."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        with gzip.open(folder / "blocks.json.gz", "rt", encoding="ascii") as stream:
            blocks = Blocks(json.load(stream), tuple(facts["caches"]))
        shutil.copyfile(folder / "outputs.npz", outputs)
    except (OSError, EOFError, ValueError, KeyError):
        return None
    return GuestRun(facts["document"], blocks, tuple(facts["totals"]))


def keep(folder: Path, run: GuestRun, outputs: Path, artifact: Path) -> None:
    """Write a run whole, or not at all; one that is there already is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".keeping-", dir=folder.parent) as temporary:
        made = Path(temporary) / "run"
        made.mkdir()
        facts = {
            "artifact": artifact.name,
            "artifact_sha256": file_sha256(artifact),
            "document": run.document,
            "totals": run.totals,
            "caches": run.blocks.caches,
        }
        (made / "run.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        with gzip.open(made / "blocks.json.gz", "wt", encoding="ascii") as stream:
            json.dump(run.blocks.runs, stream)
        shutil.copyfile(outputs, made / "outputs.npz")
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
